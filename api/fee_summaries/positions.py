"""What figures are exact for: the summaries' position, waiting for it to be reached, and going back to one.

A report is read in pages that are requested at different times, and each shows the state at one position.
The rows are always those of the present position; the changes behind the asked one are taken back, in the
statement that reads the rows. That needs no copies and no locks, only the changes in between.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from hashlib import blake2s
from typing import TYPE_CHECKING, Any

from api.fee_summaries.errors import OrderVersionNotFoundError, ReportExpiredError, SummariesBehindError
from api.http.fields import read_id
from api.http.times import utc_text
from shared.database.engine import DB
from shared.database.rows import row
from shared.fee_summaries import FURTHEST_BACK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from api.http.pages import Filters

GREATEST_VERSION = 999_999_999

LONGEST_WAIT_SECONDS = 10
USUAL_WAIT_SECONDS = 5
"""How long a request waits for what it asks to be included, unless it says otherwise."""

MOST_WAITING = 500
"""Requests of one process that may wait; one more is told at once where the summaries are."""

LOOK_SECONDS = 0.05
"""Pause between two looks at how far the summaries are, for all requests of a process that wait."""

STANDING = """
standing AS (
    SELECT
        s.generation, s.time_zone, c.position AS applied, coalesce($1::bigint, c.position) AS position,
        coalesce((
            SELECT step.moved_at FROM fee_summary_step AS step
            WHERE step.position >= coalesce($1::bigint, c.position) ORDER BY step.position LIMIT 1
        ), c.moved_at) AS moved_at,
        (SELECT max(updated_at) FROM service) AS named_at
    FROM fee_summary_state AS s, consumer_cursor AS c WHERE c.consumer = 'fee_summaries'
)
"""
"""The first part of every statement that gives figures: what they are for. $1: a position, or null for now.

``generation`` and ``named_at`` tell figures of one position apart that a rebuild mended or a service's new
name changed.
"""

_STANDING_NOW = f"""
WITH {STANDING} SELECT standing.*, l.last_position AS assigned FROM standing, change_log AS l WHERE l.id = 1
"""


@dataclass(frozen=True)
class Standing:
    """What figures are exact for."""

    position: int
    moved_at: datetime
    applied: int
    """The position that the summaries are at; at or after ``position``."""
    generation: int
    time_zone: str
    named_at: datetime | None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Standing:
        """Take it from a row of a statement that begins with ``STANDING``."""
        return cls(**{name: found[name] for name in cls.__dataclass_fields__})

    @property
    def as_of(self) -> dict[str, Any]:
        """Give it as answers show it."""
        return {"position": self.position, "time": utc_text(self.moved_at)}

    def etag(self, filters: Filters, *what: object) -> str:
        """Make the tag of an answer: another one whenever its bytes may be others.

        How long the caller would have waited makes no difference to it.
        """
        asked = sorted(pair for pair in filters if pair[0] not in ("wait", "min_position", "after_version"))
        text = json.dumps([self.generation, self.time_zone, str(self.named_at), asked, *what])
        return f'"{self.position}-{blake2s(text.encode(), digest_size=8).hexdigest()}"'


async def standing_at(position: int | None) -> Standing:
    """Give what figures are exact for at a position, or at present."""
    standing, _ = await _look(position)
    return standing


async def _look(position: int | None) -> tuple[Standing, int]:
    """Give what ``standing_at`` gives, and the last position that was given to a change."""
    (found,) = await DB.fetch(_STANDING_NOW, position)
    return Standing.of(found), found["assigned"]


def refuse_expired(standing: Standing, time_zone: str | None = None) -> None:
    """See that figures can be given for a position, in the zone that the report began with.

    Raises:
        ReportExpiredError: they can't.

    """
    reason = ""
    if standing.position > standing.applied:
        reason = f"is ahead of the summaries, which are at {standing.applied}: it is of another change log"
    elif standing.applied - standing.position > FURTHEST_BACK:
        reason = f"is more than {FURTHEST_BACK:,} changes behind the present one, {standing.applied}"
    elif time_zone not in (None, standing.time_zone):
        reason = f"was shown in days of {time_zone}; now they are those of {standing.time_zone}"
    if reason:
        raise ReportExpiredError(standing.position, standing.applied, reason)


def refuse_changed(standing: Standing, reversed_changes: int, time_zone: str | None = None) -> None:
    """See that the rows that were read make up figures for the position, in the zone the report began with.

    What the caller asked for was looked at before; a rebuild, a restored database or the retention may have
    come in between.

    Raises:
        ReportExpiredError: they are in days of another zone, or some changes behind the position were no
            longer there to be taken back.

    """
    refuse_expired(standing, time_zone)
    if reversed_changes < standing.applied - standing.position:
        raise ReportExpiredError(
            standing.position, standing.applied, "is followed by changes that are no longer retained"
        )


@dataclass(frozen=True)
class OrderVersion:
    """A version of an order, as its ETag names it. A deletion is the version after the last."""

    order_id: int
    version: int


def read_order_version(value: str) -> OrderVersion:
    """Read ``<order>:<version>``."""
    order_id, _, version = value.partition(":")
    try:
        if read_id(version) <= GREATEST_VERSION:
            return OrderVersion(read_id(order_id), read_id(version))
    except ValueError:
        pass
    message = "must be an order's id and a version of it, such as 223:1"
    raise ValueError(message)


_POSITION_OF_VERSION = """
SELECT position, true AS logged FROM order_change WHERE order_id = $1 AND order_version = $2
UNION ALL
SELECT 0, false WHERE EXISTS (SELECT FROM orders WHERE id = $1 AND version >= $2)
    OR EXISTS (SELECT FROM order_change WHERE order_id = $1 AND order_version > $2)
ORDER BY logged DESC LIMIT 1
"""
_IS_KNOWN = """
SELECT FROM orders WHERE id = $1 UNION ALL SELECT FROM order_change WHERE order_id = $1 LIMIT 1
"""


async def _position_of(wanted: OrderVersion) -> int | None:
    """Give the position of an order's version; None: it has none yet.

    Raises:
        OrderVersionNotFoundError: there is none.

    """
    found = await row(_POSITION_OF_VERSION, wanted.order_id, wanted.version)
    if found is None:
        known = await row(_IS_KNOWN, wanted.order_id) is not None
        raise OrderVersionNotFoundError(wanted.order_id, wanted.version, is_known=known)
    # One that the log no longer holds was applied long ago: what is not applied is never removed.
    position: int | None = found["position"]
    return position


async def wait_for(min_position: int, after_version: OrderVersion | None, seconds: int) -> None:
    """Wait until the summaries include a position and an order's version.

    Raises:
        OrderVersionNotFoundError: there is no such version.
        SummariesBehindError: they did not get there in time.

    """
    give_up = time.monotonic() + seconds
    goal: int | None = min_position if after_version is None else None
    standing, assigned = await _look(None)
    asked_at: int | None = None
    while True:
        # A version has a position only once more of them were given: nobody looks for it in between.
        if goal is None and after_version is not None and asked_at != assigned:
            position = await _position_of(after_version)
            goal, asked_at = None if position is None else max(position, min_position), assigned
        if goal is not None and standing.position >= goal:
            return
        # What is as far ahead as nothing may be behind can't be there in time, so it is said at once.
        far = goal is not None and goal - standing.position > FURTHEST_BACK
        if time.monotonic() >= give_up or far or _Looks.waiting >= MOST_WAITING:
            asked = f"position {min_position}"
            if after_version is not None:
                asked = f"version {after_version.version} of order {after_version.order_id}"
            raise SummariesBehindError(standing.position, standing.moved_at, asked, goal)
        standing, assigned = await _Looks.next()


def waiting_requests() -> int:
    """Count the requests of this process that wait for the summaries."""
    return _Looks.waiting


class _Looks:
    """One look for all requests that wait, so that a thousand of them look no more often than one."""

    pending: asyncio.Task[tuple[Standing, int]] | None = None
    waiting = 0

    @classmethod
    async def next(cls) -> tuple[Standing, int]:
        if cls.pending is None or cls.pending.done():
            cls.pending = asyncio.create_task(cls._after_a_pause())
        cls.waiting += 1
        try:
            # Shielded: one of them that goes away does not take the look from the others.
            return await asyncio.shield(cls.pending)
        finally:
            cls.waiting -= 1

    @staticmethod
    async def _after_a_pause() -> tuple[Standing, int]:
        await asyncio.sleep(LOOK_SECONDS)
        return await _look(None)
