"""Counting what processes do, and serving it to Prometheus."""
