"""Traces (OpenTelemetry). Callers import ``spans``; the SDK is imported only if traces are exported."""
