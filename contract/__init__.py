"""The contract (``openapi.yaml``, ``asyncapi.yaml``), and the tools that check implementation and callers."""
