"""Webhooks: who is told of changes by HTTP, what was delivered, what was missed, and replays."""
