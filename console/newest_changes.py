"""The newest changes that match filters, from a feed that starts at a position and goes forward.

Windows of positions are read backwards from the newest. Without filters the first window is the page, because
positions have no gaps. With filters it grows while nothing matches, and shrinks if more matches than fit into
one page of the feed: the newest of those are at its end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from litestar.exceptions import ClientException

from console.errors import ApiRefusalError
from console.requests import ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from console.requests import PageRequest

PAGE_SIZE = 50
FEED_LIMIT = 100
"""The most changes that the feed returns at once."""

MOST_SEARCHED = 20_000
"""How many positions a page searches. Older ones are a link away."""

_GROWTH = 4

_POSITION = re.compile(r"[0-9]{1,18}", re.ASCII)


@dataclass
class ChangesPage:
    """Changes, newest first, of the positions that were searched: ``first`` to ``last``."""

    latest: int
    last: int
    first: int
    begin: int = 1
    changes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_newest(self) -> bool:
        """Whether there is nothing newer."""
        return self.last >= self.latest

    @property
    def older_before(self) -> int | None:
        """The position before which the next older page begins; None where the log begins."""
        return self.first if self.first > self.begin else None


def position_of(change: Mapping[str, Any]) -> int:
    """Return the position of a change."""
    return int(change["sequence"])


def read_position(request: PageRequest, name: str) -> int | None:
    """Read a position from the query of a page.

    Raises:
        ClientException: it is none.

    """
    value = request.query_params.get(name, "")
    if value and not _POSITION.fullmatch(value):
        raise ClientException
    return int(value) if value else None


async def latest_position(request: PageRequest) -> int:
    """Ask for the position of the latest change."""
    return int((await ask(request, "/order-changes/latest")).data["position"])


async def newest_changes(
    request: PageRequest, filters: Mapping[str, str], before: int | None = None
) -> ChangesPage:
    """Read the newest changes that match filters, before a position if one is given.

    Raises:
        ApiRefusalError: 400, a filter is none; 403, the visitor may not read changes.

    """
    latest = await latest_position(request)
    last = min(before - 1, latest) if before else latest
    page = ChangesPage(latest, last, last + 1)
    size = FEED_LIMIT if any(filters.values()) else PAGE_SIZE
    while len(page.changes) < PAGE_SIZE and page.first > max(page.begin, last + 1 - MOST_SEARCHED):
        start = max(page.first - size, page.begin, last + 1 - MOST_SEARCHED)
        try:
            window = await _read_window(request, filters, start, page.first - 1)
        except ApiRefusalError as refusal:
            begin = refusal.problem.get("first_position", 0)
            if refusal.status != 410 or begin <= start:
                raise
            page.begin = min(begin, page.first)  # older changes are no longer retained
            continue
        if window is None:
            size = max(size // _GROWTH, FEED_LIMIT)
            continue
        page.changes += reversed(window)
        page.first = start
        size *= 1 if window else _GROWTH
    if len(page.changes) >= PAGE_SIZE:
        del page.changes[PAGE_SIZE:]
        page.first = position_of(page.changes[-1])
    return page


async def changes_since(request: PageRequest, filters: Mapping[str, str], after: int) -> ChangesPage:
    """Read the changes that come next after a position; the newest ones if those are fewer than a page.

    Raises:
        ApiRefusalError: as above; 410, they are no longer retained.

    """
    feed = await _ask_feed(request, filters, after, PAGE_SIZE)
    latest = await latest_position(request)
    if feed["next_cursor"] >= latest:
        return await newest_changes(request, filters)
    return ChangesPage(latest, feed["next_cursor"], after + 1, changes=feed["items"][::-1])


async def _read_window(
    request: PageRequest, filters: Mapping[str, str], start: int, end: int
) -> list[dict[str, Any]] | None:
    """Read the changes of some positions, oldest first; None: too many for one answer."""
    window: list[dict[str, Any]] = []
    after = start - 1
    while after < end:
        feed = await _ask_feed(request, filters, after, FEED_LIMIT)
        window += [change for change in feed["items"] if position_of(change) <= end]
        after = feed["next_cursor"]
        if len(window) >= FEED_LIMIT and after < end:
            return None
    return window


async def _ask_feed(request: PageRequest, filters: Mapping[str, str], after: int, limit: int) -> Any:
    query = [*filters.items(), ("after", str(after)), ("limit", str(limit))]
    return (await ask(request, "/order-changes", query)).data
