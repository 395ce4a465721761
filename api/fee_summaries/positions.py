"""What figures are exact for: the summaries' position, waiting until it is reached, and earlier positions.

A report is read in pages that are requested at different times, and all show the state at one position. The
stored rows are always those of the current position; the statement that reads them undoes the changes after
the requested one. That needs no copies and no locks, only those changes.
"""

from __future__ import annotations

import asyncio
import json
import time
from hashlib import blake2s
from typing import TYPE_CHECKING, Any

import msgspec

from api.fee_summaries.errors import OrderVersionNotFoundError, ReportExpiredError, SummariesBehindError
from api.fee_summaries.statements import Statement
from api.http.request_metrics import process_gauge
from api.http.times import utc_text
from shared.database.statements import fetch_one, fetch_optional, fetch_values
from shared.fee_summaries import FURTHEST_BACK

if TYPE_CHECKING:
    from datetime import datetime

    from api.http.pages import Filters
    from shared.database.standbys import OrderVersion

LONGEST_WAIT_SECONDS = 10
DEFAULT_WAIT_SECONDS = 5
"""How long a request without ``wait`` waits for the changes that it requires."""

MAX_WAITING_REQUESTS = 500
"""Requests of one process that may wait at once; any more get ``SummariesBehindError`` without waiting."""

POLL_SECONDS = 0.05
"""Pause between two polls of the summaries' position, for all requests of a process that wait."""

_AS_OF_NOW = Statement("as_of_now.sql")


class AsOf(msgspec.Struct, frozen=True):
    """What figures are exact for: the columns of ``as_of.sql``."""

    position: int
    moved_at: datetime
    applied: int
    """The position that the summaries are at; at or after ``position``."""
    generation: int
    time_zone: str
    named_at: datetime | None

    def members(self) -> dict[str, Any]:
        """Return the ``as_of`` of answers."""
        return {"position": self.position, "time": utc_text(self.moved_at)}

    def etag(self, filters: Filters, *variant: object) -> str:
        """Return the entity tag of an answer; it differs whenever the bytes may differ.

        The parameters that make a request wait do not affect it.
        """
        requested = sorted(
            pair for pair in filters if pair[0] not in ("wait", "min_position", "after_version")
        )
        text = json.dumps([self.generation, self.time_zone, str(self.named_at), requested, *variant])
        return f'"{self.position}-{blake2s(text.encode(), digest_size=8).hexdigest()}"'


class ReadAsOf(AsOf, frozen=True):
    """What the rows of a statement are exact for."""

    undone: int
    """How many changes it has undone."""


class _AsOfNow(AsOf, frozen=True):
    """What figures are exact for, and how far the change log is."""

    assigned: int
    """The last position that a change was assigned."""


async def read_as_of(position: int | None) -> _AsOfNow:
    """Return what figures are exact for at a position, or at the current one."""
    return await fetch_one(_AsOfNow, _AS_OF_NOW.sql, *_AS_OF_NOW.arguments(position=position))


def check_available(as_of: AsOf, time_zone: str | None = None) -> None:
    """Check that there are figures for a position, in the zone that the report began with.

    Raises:
        ReportExpiredError: there are not.

    """
    reason = ""
    if as_of.position > as_of.applied:
        reason = f"is ahead of the summaries, which are at {as_of.applied}: it is from another change log"
    elif as_of.applied - as_of.position > FURTHEST_BACK:
        reason = f"is more than {FURTHEST_BACK:,} changes behind the current one, {as_of.applied}"
    elif time_zone not in (None, as_of.time_zone):
        reason = f"belongs to a report with days in {time_zone}; days are now in {as_of.time_zone}"
    if reason:
        raise ReportExpiredError(as_of.position, as_of.applied, reason)


def check_read(as_of: ReadAsOf, time_zone: str | None = None) -> None:
    """Check that the rows that were read are figures for the position, in the zone the report began with.

    ``check_available`` was called before they were read; a rebuild, a restored database or retention may have
    come in between.

    Args:
        as_of: what the rows are exact for.
        time_zone: the zone of the first page, if these are of a later one.

    Raises:
        ReportExpiredError: they have days in another zone, or some changes after the position were already
            deleted and could not be undone.

    """
    check_available(as_of, time_zone)
    if as_of.undone < as_of.applied - as_of.position:
        raise ReportExpiredError(
            as_of.position, as_of.applied, "is followed by changes that are no longer retained"
        )


class _VersionPosition(msgspec.Struct, frozen=True):
    """Where a version is in the change log."""

    position: int | None
    is_logged: bool


# A version whose change was deleted has position 0: only changes that were applied are ever deleted.
_POSITION_OF_VERSION = """
SELECT position, true AS is_logged FROM order_change WHERE order_id = $1 AND order_version = $2
UNION ALL
SELECT 0, false WHERE EXISTS (SELECT FROM orders WHERE id = $1 AND version >= $2)
    OR EXISTS (SELECT FROM order_change WHERE order_id = $1 AND order_version > $2)
ORDER BY is_logged DESC LIMIT 1
"""
_IS_KNOWN = """
SELECT true FROM orders WHERE id = $1 UNION ALL SELECT true FROM order_change WHERE order_id = $1 LIMIT 1
"""


async def _position_of(wanted: OrderVersion) -> int | None:
    """Return the position of an order's version; None: it has none yet.

    Raises:
        OrderVersionNotFoundError: there is no such version.

    """
    version = await fetch_optional(_VersionPosition, _POSITION_OF_VERSION, wanted.order_id, wanted.version)
    if version is None:
        is_known = bool(await fetch_values(bool, _IS_KNOWN, wanted.order_id))
        raise OrderVersionNotFoundError(wanted.order_id, wanted.version, is_known=is_known)
    return version.position


async def wait_for(min_position: int, after_version: OrderVersion | None, seconds: int) -> int:
    """Wait until the summaries include a position and an order's version; return the position they are at.

    Raises:
        OrderVersionNotFoundError: there is no such version.
        SummariesBehindError: they did not include both in time.

    """
    deadline = time.monotonic() + seconds
    goal: int | None = min_position if after_version is None else None
    summaries = await read_as_of(None)
    assigned_when_checked: int | None = None
    while True:
        # The version can only have got a position if positions were assigned since the last check.
        if goal is None and after_version is not None and assigned_when_checked != summaries.assigned:
            position = await _position_of(after_version)
            goal = None if position is None else max(position, min_position)
            assigned_when_checked = summaries.assigned
        if goal is not None and summaries.position >= goal:
            return summaries.position
        # So far ahead that the summaries can't reach it in time: don't wait.
        is_far = goal is not None and goal - summaries.position > FURTHEST_BACK
        if time.monotonic() >= deadline or is_far or _Poll.waiting >= MAX_WAITING_REQUESTS:
            requested = f"position {min_position}"
            if after_version is not None:
                requested = f"version {after_version.version} of order {after_version.order_id}"
            raise SummariesBehindError(summaries.position, summaries.moved_at, requested, goal)
        summaries = await _Poll.next()


_waiting_requests = process_gauge(
    "fee_summaries_waiting_requests",
    "Requests that wait for the fee summaries, in all processes of this server.",
)


class _Poll:
    """One poll for all requests that wait, so that a thousand of them poll no more often than one."""

    pending: asyncio.Task[_AsOfNow] | None = None
    waiting = 0

    @classmethod
    async def next(cls) -> _AsOfNow:
        if cls.pending is None or cls.pending.done():
            cls.pending = asyncio.create_task(cls._poll_after_a_pause())
        cls.waiting += 1
        _waiting_requests.inc()
        try:
            # Shielded: a request that is cancelled does not cancel the poll for the others.
            return await asyncio.shield(cls.pending)
        finally:
            cls.waiting -= 1
            _waiting_requests.dec()

    @staticmethod
    async def _poll_after_a_pause() -> _AsOfNow:
        await asyncio.sleep(POLL_SECONDS)
        return await read_as_of(None)
