"""Services: what can be ordered. Archived, never deleted."""
