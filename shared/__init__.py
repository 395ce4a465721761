"""Code that both services import."""
