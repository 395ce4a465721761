"""The HTTP API and, beside it, the relay."""
