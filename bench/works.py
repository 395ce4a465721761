"""The requests of each work, ready to be sent."""

from __future__ import annotations

import itertools
import json
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from bench.databases import CALENDARS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bench.databases import StoredOrder

PLACES_FROM = datetime(2040, 1, 1, tzinfo=UTC)
"""New orders begin here; they are exactly three hours apart on each calendar."""

REPEATED = 2_000
"""Different requests of a work whose requests may be repeated."""

_SERVICES = [{"id": "123"}, {"id": "456"}]
_random = random.Random(7)


def render(method: str, path: str, body: object = None, **headers: str) -> bytes:
    """Return a request as it is sent."""
    content = b"" if body is None else json.dumps(body).encode()
    if body is not None:
        headers |= {"Content-Length": str(len(content))}
        headers.setdefault("Content-Type", "application/json")
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def text(at: datetime) -> str:
    """Return a time as JSON has it."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


class Places:
    """Free places, each given once: from a number on."""

    def __init__(self, first: int = 0) -> None:
        self._numbers = itertools.count(first)

    def creates(self, count: int) -> list[bytes]:
        """Return creates that will be accepted."""
        return [render("POST", "/orders", order_at(*self._next())) for _ in range(count)]

    def _next(self) -> tuple[datetime, str]:
        number = next(self._numbers)
        return PLACES_FROM + number // CALENDARS * timedelta(hours=3), f"c{number % CALENDARS}"


def order_at(at: datetime | str, calendar: str) -> dict[str, object]:
    """Return the body of a create or of a replacement."""
    return {
        "datetime": at if isinstance(at, str) else text(at),
        "totalfee": _random.randrange(100_000) / 100,
        "services": _SERVICES,
        "calendar": calendar,
    }


def refused_creates(orders: Sequence[StoredOrder]) -> list[bytes]:
    """Return creates an hour after an existing order."""
    return [
        render("POST", "/orders", order_at(_later(order, hours=1), order.calendar))
        for order in _random.sample(orders, REPEATED)
    ]


def gets(orders: Sequence[StoredOrder]) -> list[bytes]:
    """Return reads of one order."""
    return [render("GET", f"/orders/{order.id}") for order in _random.sample(orders, REPEATED)]


def conditional_gets(tags: Iterable[tuple[str, str]]) -> list[bytes]:
    """Return reads of orders that their reader has: pairs of path and entity tag."""
    return [render("GET", path, **{"If-None-Match": tag}) for path, tag in tags]


def lists(orders: Sequence[StoredOrder]) -> list[bytes]:
    """Return reads of 50 orders from some time on."""
    return [
        render("GET", f"/orders?from={order.datetime}&limit=50")
        for order in _random.sample(orders[: len(orders) * 9 // 10], REPEATED)
    ]


def replacements(orders: Sequence[StoredOrder]) -> Iterator[bytes]:
    """Return replacements that move the order within the hour after its place, and change its fee."""
    for order in _random.sample(orders, len(orders)):
        at = _later(order, minutes=_random.randrange(60))
        yield render("PUT", f"/orders/{order.id}", order_at(at, order.calendar))


def patches(orders: Sequence[StoredOrder]) -> Iterator[bytes]:
    """Return merge patches that change the fee."""
    for order in _random.sample(orders, len(orders)):
        fee = {"totalfee": _random.randrange(100_000) / 100}
        headers = {"Content-Type": "application/merge-patch+json"}
        yield render("PATCH", f"/orders/{order.id}", fee, **headers)


def deletes(ids: Iterable[str]) -> list[bytes]:
    """Return deletions."""
    return [render("DELETE", f"/orders/{order_id}") for order_id in ids]


def _later(order: StoredOrder, **by: int) -> str:
    return text(datetime.fromisoformat(order.datetime) + timedelta(**by))
