"""Reading calendars."""

from __future__ import annotations

from datetime import datetime

import msgspec

from api.http.json_text import encode_text
from api.http.pages import Page
from api.http.times import utc_text
from api.orders.spacing import CLEARANCE
from shared.database.statements import fetch_values
from shared.database.tables import Calendar

_TAKEN = """
SELECT datetime FROM orders
WHERE calendar_id = (SELECT id FROM calendar WHERE name = $1) AND datetime > $2 AND datetime < $3
    AND status = 'booked'
ORDER BY datetime
"""


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


async def taken_datetimes(calendar: str, earliest: datetime, latest: datetime) -> list[datetime]:
    """Return the datetimes of the calendar's orders that block part of an interval, ascending."""
    return await fetch_values(datetime, _TAKEN, calendar, earliest - CLEARANCE, latest + CLEARANCE)
