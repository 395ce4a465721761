"""Webhooks: their settings, what was delivered to them, what they missed, and replays."""
