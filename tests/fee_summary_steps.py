"""Steps of the tests of fee summaries: reading reports with exact numbers, random queries, proofs."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tests.fee_summary_history import CALENDARS, SERVICES, History
from tests.fee_summary_model import Query
from worker.fee_summaries.proof import CursorBeyondLog, Difference, prove

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def exactly(answer: httpx.Response) -> dict[str, Any]:
    """Read an answer with exact numbers."""
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = json.loads(answer.text, parse_float=Decimal)
    return read


def pages(api: Api, query: Query, **more: str) -> list[dict[str, Any]]:
    """Read all pages of a report."""
    following = f"/fee-summaries?{urlencode([*query.parameters(), *more.items()])}"
    every_page = []
    while following:
        every_page.append(exactly(api.client.get(following)))
        following = every_page[-1]["next"]
    return every_page


def random_query(history: History) -> Query:
    """Draw a random query."""
    rng = history.rng
    first = date(2030, rng.randint(5, 10), rng.randint(1, 28))
    end = date(2030, rng.randint(6, 11), rng.randint(1, 28))
    bounded = rng.random() < 0.6 and first < end
    return Query(
        group_by=rng.choice(("day", "week", "month", "quarter", "year")),
        by=tuple(rng.sample(("service", "calendar"), rng.randint(0, 2))),
        services=tuple(rng.sample(SERVICES, rng.choice((0, 0, 1, 2)))),
        calendars=tuple(rng.sample(CALENDARS, rng.choice((0, 0, 1, 2)))),
        first=first if bounded else None,
        end=end if bounded else None,
        fill=bounded and rng.random() < 0.5,
    )


def differences(run: Run) -> list[Difference]:
    """Run a proof and return the wrong rows."""
    reported: list[Difference | CursorBeyondLog] = []
    proof = run(prove(report=reported.append))
    assert proof.differing == len(reported)
    rows = [one for one in reported if isinstance(one, Difference)]
    assert rows == reported
    return rows
