"""Reading calendars."""

from __future__ import annotations

from datetime import datetime

import msgspec

from api.http.json_text import encode_text
from api.http.pages import Page
from api.http.times import utc_text
from shared.database.tables import Calendar


class StoredCalendar(msgspec.Struct, frozen=True):
    """The columns of ``calendar`` that callers see."""

    name: str
    created_at: datetime

    def json(self) -> str:
        """Return the calendar as JSON."""
        return encode_text({"name": self.name, "created_at": utc_text(self.created_at)})


async def list_calendars(after: str, limit: int) -> Page:
    """List calendars by name, beginning after the name ``after``."""
    rows = (
        await Calendar.select(Calendar.name, Calendar.created_at)
        .where(Calendar.name > after)
        .order_by(Calendar.name)
        .limit(limit + 1)
    )
    return Page.of(
        [StoredCalendar(**row) for row in rows], limit, StoredCalendar.json, lambda calendar: [calendar.name]
    )
