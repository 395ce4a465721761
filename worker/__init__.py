"""The worker: consumers of order changes."""
