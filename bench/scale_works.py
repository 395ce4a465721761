"""The requests whose cost is not to grow with the number of orders."""

from __future__ import annotations

import base64
import http.client
import json
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bench.large_database import CALENDARS, FIRST_ID, FIRST_SERVICE, SERVICES, at, calendar
from bench.processes import BenchError
from bench.works import order_at, render, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bench.large_database import LargeDatabase

REPEATED = 4_000
"""Different requests of a work whose requests may be repeated."""

CREATE = "create"
_FREE_HOURS = (3, 6, 9, 12, 15, 18, 21)
"""After an order; the next one on its calendar is a day later."""

_WINDOW_DAYS = 30


class ScaleWorks:
    """The requests to one database: the same ones to each, in another range of orders."""

    def __init__(self, database: LargeDatabase, port: int) -> None:
        self._orders = database.orders
        self._days = database.days
        self._port = port
        self._random = random.Random(17)
        self._taken: set[int] = set()

    @property
    def reads(self) -> dict[str, Callable[[], str]]:
        """What each work reads: a function that returns another path at each call."""
        by_datetime, by_id = (self._cursor(f"/orders?limit=50&sort={sort}") for sort in ("datetime", "id"))
        return {
            "get": lambda: f"/orders/{FIRST_ID + self._number()}",
            "list, first page": lambda: "/orders?limit=50",
            "list, deep page by cursor": lambda: self._page(by_datetime, place=True),
            "list, sort=id, deep page": lambda: self._page(by_id, place=False),
            "list of a service": lambda: f"/orders?limit=50&service={self._service()}&from={self._day()}",
            "list of a calendar": lambda: f"/orders?limit=20&calendar={self._calendar()}&from={self._day()}",
            "availability of a calendar": self._availability,
            "feed, page of 50": lambda: f"/order-changes?limit=50&after={self._number() * 9 // 10}",
            "fees of a day": lambda: f"/fee-summaries?{self._period(days=1)}&group_by=day",
            "fees of a month, by service": lambda: (
                f"/fee-summaries?{self._period(_WINDOW_DAYS)}&group_by=month&by=service"
            ),
            "fees of a calendar's month": lambda: (
                f"/fee-summaries?{self._period(_WINDOW_DAYS)}&group_by=day&calendar={self._calendar()}"
            ),
        }

    def creates(self, count: int) -> list[bytes]:
        """Return creates between the orders that are there, each at a place of its own."""
        most = self._orders * len(_FREE_HOURS)
        if len(self._taken) + count > most * 9 // 10:
            raise BenchError("there are too few free places; begin with more orders")
        requests: list[bytes] = []
        while len(requests) < count:
            place = self._random.randrange(most)
            if place in self._taken:
                continue
            self._taken.add(place)
            number, hour = divmod(place, len(_FREE_HOURS))
            when = at(number) + timedelta(hours=_FREE_HOURS[hour])
            requests.append(render("POST", "/orders", order_at(when, calendar(number))))
        return requests

    def check(self, name: str, path: Callable[[], str]) -> None:
        """Send one request of a work.

        Raises:
            BenchError: the answer is an error, or a list of nothing.

        """
        answer = self._get(path())
        if not answer.get("items", [answer]):
            raise BenchError(f"{name}: {path()} has no items")

    def _get(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise BenchError(f"GET {path} was answered {answer.status}: {content!r}")
        body: dict[str, Any] = json.loads(content)
        return body

    def _cursor(self, path: str) -> tuple[str, list[Any]]:
        """Return a list's path, and the parts of the cursor of its second page."""
        cursor = self._get(path)["next_cursor"]
        return path, json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))

    def _page(self, second: tuple[str, list[Any]], *, place: bool) -> str:
        """Return the path of a page far into a list, which would take long to walk to.

        Args:
            second: see `_cursor`.
            place: whether the list is sorted by datetime.

        """
        path, parts = second
        number = self._number() * 9 // 10
        order_id = type(parts[-1])(FIRST_ID + number)
        parts = [parts[0], f"{text(at(number))[:-1]}.000Z", order_id] if place else [parts[0], order_id]
        cursor = base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode()
        return f"{path}&cursor={cursor.rstrip('=')}"

    def _number(self) -> int:
        return self._random.randrange(self._orders)

    def _service(self) -> int:
        return FIRST_SERVICE + self._random.randrange(SERVICES)

    def _calendar(self) -> str:
        return calendar(self._random.randrange(CALENDARS))

    def _start(self) -> datetime:
        """Return a day after which there are enough for a page, a window or a month."""
        return at(self._random.randrange(self._days - _WINDOW_DAYS) * CALENDARS)

    def _day(self) -> str:
        return text(self._start())

    def _availability(self) -> str:
        start = self._start()
        end = start + timedelta(days=_WINDOW_DAYS)
        return f"/calendars/{self._calendar()}/availability?from={text(start)}&to={text(end)}"

    def _period(self, days: int) -> str:
        start = self._start().date()
        return f"from={start}&to={start + timedelta(days=days)}"
