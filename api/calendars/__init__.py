"""Calendars: which exist, and when they are free."""
