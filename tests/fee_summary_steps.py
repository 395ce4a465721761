"""Steps of the tests of fee summaries: reading reports exactly, asking for some, proving, commands."""

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
    """Read an answer, its numbers exactly."""
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = json.loads(answer.text, parse_float=Decimal)
    return read


def pages(api: Api, query: Query, **more: str) -> list[dict[str, Any]]:
    """Read a report, page by page."""
    following = f"/fee-summaries?{urlencode([*query.parameters(), *more.items()])}"
    found = []
    while following:
        found.append(exactly(api.client.get(following)))
        following = found[-1]["next"]
    return found


def random_query(history: History) -> Query:
    """Ask for some report."""
    chance = history.chance
    first = date(2030, chance.randint(5, 10), chance.randint(1, 28))
    end = date(2030, chance.randint(6, 11), chance.randint(1, 28))
    bounded = chance.random() < 0.6 and first < end
    return Query(
        group_by=chance.choice(("day", "week", "month", "quarter", "year")),
        by=tuple(chance.sample(("service", "calendar"), chance.randint(0, 2))),
        services=tuple(chance.sample(SERVICES, chance.choice((0, 0, 1, 2)))),
        calendars=tuple(chance.sample(CALENDARS, chance.choice((0, 0, 1, 2)))),
        first=first if bounded else None,
        end=end if bounded else None,
        fill=bounded and chance.random() < 0.5,
    )


def differences(run: Run) -> list[Difference]:
    """Prove the summaries, and give the rows that are wrong."""
    found: list[Difference | CursorBeyondLog] = []
    proof = run(prove(report=found.append))
    assert proof.differing == len(found)
    rows = [one for one in found if isinstance(one, Difference)]
    assert rows == found
    return rows
