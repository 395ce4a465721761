"""The relay, a process of its own: change log to queue and Redis stream. ``python -m api.relay.main``."""
