"""The HTTP promise (``openapi.yaml``) and the tools that hold others, and ourselves, to it."""
