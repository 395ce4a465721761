"""Reading calendars."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from api.calendars.errors import CalendarNotFoundError
from api.http.durations import duration_text
from api.http.json_text import encode_text
from api.http.pages import Page
from api.http.times import utc_text
from shared.database.tables import Calendar


class StoredCalendar(msgspec.Struct, frozen=True):
    """A row of ``calendar``, unless it was deleted."""

    id: int
    name: str
    title: str
    spacing_seconds: int
    created_at: datetime

    @property
    def spacing(self) -> timedelta:
        """How far apart orders on it are at least."""
        return timedelta(seconds=self.spacing_seconds)

    def json(self) -> str:
        """Return the calendar as JSON."""
        return encode_text(
            {
                "name": self.name,
                "title": self.title,
                "spacing": duration_text(self.spacing),
                "created_at": utc_text(self.created_at),
            }
        )


COLUMNS = (Calendar.id, Calendar.name, Calendar.title, Calendar.spacing_seconds, Calendar.created_at)
"""Those of ``StoredCalendar``."""


async def find_optional_calendar(name: str) -> StoredCalendar | None:
    """Find a calendar; None if there is none of that name, or it was deleted."""
    row = await Calendar.select(*COLUMNS).where(Calendar.name == name, Calendar.deleted_at.is_null()).first()
    return StoredCalendar(**row) if row else None


async def find_calendar(name: str) -> StoredCalendar:
    """Find a calendar.

    Raises:
        CalendarNotFoundError: there is none of that name, or it was deleted.

    """
    calendar = await find_optional_calendar(name)
    if calendar is None:
        raise CalendarNotFoundError(name)
    return calendar


async def list_calendars(after: str, limit: int) -> Page:
    """List calendars by name, beginning after the name ``after``."""
    rows = (
        await Calendar.select(*COLUMNS)
        .where(Calendar.name > after, Calendar.deleted_at.is_null())
        .order_by(Calendar.name)
        .limit(limit + 1)
    )
    return Page.of(
        [StoredCalendar(**row) for row in rows], limit, StoredCalendar.json, lambda calendar: [calendar.name]
    )
