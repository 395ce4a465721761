"""Checks that all contestants do the same work: the same answers and rule, and a row for each change."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bench.databases import SERVICES, fetch
from bench.processes import BenchError
from bench.works import text

if TYPE_CHECKING:
    from bench.contestants import Contestant

_PLACE = datetime(2150, 5, 6, 7, tzinfo=UTC)
_CALENDAR = "c7"
_AT_ONCE = 16


def check_same_work(contestant: Contestant) -> None:
    """Create orders, refuse some, and read them back.

    Raises:
        BenchError: an answer, or the number of changes, is not what every contestant's is to be.

    """
    changes = _changes(contestant)
    sent = {
        "datetime": text(_PLACE),
        "totalfee": 250.5,
        "services": [{"id": "123"}, {"id": "456"}],
        "calendar": _CALENDAR,
    }
    created = _order(_call(contestant, 201, "POST", "/orders", sent))
    names = [{"id": number, "name": SERVICES[number]} for number in ("123", "456")]
    wanted = {**sent, "services": names, "datetime": _PLACE, "version": 1}
    _compare(contestant, "a create", {name: created[name] for name in wanted}, wanted)
    for minutes in (-179, 0, 179):
        _call(
            contestant,
            409,
            "POST",
            "/orders",
            {**sent, "datetime": text(_PLACE + timedelta(minutes=minutes))},
        )
    after = text(_PLACE + timedelta(hours=3))
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        answers = list(
            threads.map(
                lambda _: _request(contestant, "POST", "/orders", {**sent, "datetime": after})[0],
                range(_AT_ONCE),
            )
        )
    _compare(contestant, "creates of one place at once", sorted(answers), [201, *[409] * (_AT_ONCE - 1)])
    read = _order(_call(contestant, 200, "GET", f"/orders/{created['id']}"))
    _compare(contestant, "a read", read, created)
    page = _call(contestant, 200, "GET", f"/orders?from={text(_PLACE)}&limit=50")["items"]
    _compare(contestant, "the first of a list", _order(page[0]), created)
    early = contestant.orders[0].datetime
    page = _call(contestant, 200, "GET", f"/orders?from={early}&limit=50")["items"]
    times = [datetime.fromisoformat(item["datetime"]) for item in page]
    _compare(contestant, "the length of a list", len(page), 50)
    _compare(contestant, "the order of a list", times, sorted(times))
    _compare(contestant, "the changes of two creates", _changes(contestant) - changes, 2)


def _compare(contestant: Contestant, what: str, actual: object, wanted: object) -> None:
    if actual != wanted:
        raise BenchError(f"{contestant.name} does other work: {what} is {actual}, and not {wanted}")


def _order(shown: dict[str, Any]) -> dict[str, Any]:
    """Return an order with its times as times, which may be written in several ways."""
    times = ("datetime", "created_at", "updated_at")
    return {name: datetime.fromisoformat(value) if name in times else value for name, value in shown.items()}


def _call(contestant: Contestant, status: int, method: str, path: str, body: object = None) -> Any:
    actual, content = _request(contestant, method, path, body)
    _compare(contestant, f"the status of {method} {path}", actual, status)
    return json.loads(content)


def _request(contestant: Contestant, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", contestant.port, timeout=20)
    try:
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _changes(contestant: Contestant) -> int:
    return int(fetch(contestant.database_url, "SELECT count(*) FROM order_change")[0]["count"])
