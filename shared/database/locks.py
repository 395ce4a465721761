"""The advisory locks in PostgreSQL, all in one place: two that had one number would wait for each other."""

from __future__ import annotations

MIGRATOR_LOCK = 7_316_001
"""One migrator at a time: Piccolo takes none."""

CALENDAR_LOCK = 7_316_002
"""The first key of the locks that stand for calendars; the second is the calendar's id."""

RELAY_LOCK = 7_316_003
"""The session lock of the relay that is at work; others stand by for it."""

ATTEMPTS_LOCK = 7_316_004
"""The session lock of the task that takes on deliveries to webhooks."""

CATALOGUE_LOCK = 7_316_005
"""Whoever writes services."""

PROOF_LOCK = 7_316_006
"""The session lock of the proof that is under way."""
