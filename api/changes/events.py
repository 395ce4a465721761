"""Changes as events of a stream, encoded once for all that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from api.changes.queries import ChangeFilters
    from shared.changes import Change


def encode_event(change: Change) -> bytes:
    """Encode a change as an event of a stream. A notification has no line breaks, so it is one data line."""
    notification = change.notification()
    return f"id: {change.position}\nevent: {change.type}\ndata: {notification}\n\n".encode()


@dataclass(frozen=True)
class Entry:
    """A change in the ring: its encoded event, and what filters compare."""

    event_id: object
    event: bytes
    type: str
    order_id: int
    calendars: frozenset[str]
    actor: str | None

    def matches(self, filters: ChangeFilters) -> bool:
        """Return whether filters match it, as ``ChangeFilters.conditions`` does in SQL."""
        return (
            filters.order in (None, self.order_id)
            and filters.type in (None, self.type)
            and filters.actor in (None, self.actor)
            and (filters.calendar is None or filters.calendar in self.calendars)
        )
