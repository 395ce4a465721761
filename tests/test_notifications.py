"""Notifications of changes: CloudEvents, the same bytes whenever they are read, never too large."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from shared.database.statements import execute
from shared.database.transaction import transaction
from tests.builders import later
from tests.steps import assign_all, whole_log

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from shared.changes import Change
    from tests.drivers import Api, Database

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


def test_a_notification_has_the_same_bytes_on_every_read(run: Run, api: Api, database: Database) -> None:
    """After renamed services, later versions and deletions, and under other session settings."""
    orders = [api.placed_order(at=later(days=day, milliseconds=day), fee=day / 4)["id"] for day in range(4)]
    run(assign_all())
    first = run(whole_log())
    database.rows("UPDATE service SET name = name || ' (renamed)'")
    for order in orders:
        api.client.patch(f"/orders/{order}", json={"totalfee": 7, "services": [{"id": 456}]})
        api.client.delete(f"/orders/{order}")
    run(assign_all())

    async def read_under_other_settings() -> list[Change]:
        async with transaction():
            await execute("SELECT set_config('timezone', 'Asia/Kolkata', true)")
            await execute("SELECT set_config('datestyle', 'German', true)")
            return await whole_log()

    again = [run(whole_log(at_once)) for at_once in (1, 3, 100)] + [run(read_under_other_settings())]
    for log in again:
        assert [change.notification() for change in log] == [c.notification() for c in again[0]]
        assert [c.notification() for c in log[: len(first)]] == [c.notification() for c in first]


def test_a_notification_is_a_cloud_event(api: Api, run: Run) -> None:
    """CloudEvents 1.0 in JSON, with the sequence extension, and the order as GET answers it."""
    order = api.placed_order(at="2030-06-01T12:00:00.25+02:00", fee=0.1)
    changed = api.client.patch(f"/orders/{order['id']}", json={"calendar": "north"}).json()
    api.client.delete(f"/orders/{order['id']}")
    run(assign_all())
    events = [json.loads(change.notification()) for change in run(whole_log())]
    for position, event in enumerate(events, 1):
        assert set(event) == {
            *("specversion", "id", "source", "type", "subject", "time", "datacontenttype"),
            *("sequence", "orderversion", "actor", "data"),
        }
        assert (event["specversion"], event["source"], event["datacontenttype"]) == (
            "1.0",
            "/orders",
            "application/json",
        )
        assert event["subject"] == order["id"]
        assert event["orderversion"] == position
        assert event["sequence"] == f"{position:019}"
        assert UUID(event["id"]).version == 7
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(\d{3})?Z", event["time"])
    assert [event["type"] for event in events] == ["order.created", "order.updated", "order.deleted"]
    assert [event["data"] for event in events] == [
        {"order": order, "previous": None},
        {"order": changed, "previous": order},
        {"order": None, "previous": changed},
    ]
    assert len({event["id"] for event in events}) == 3


def test_the_largest_possible_change_with_metadata_is_as_large_as_the_contract_says(
    api: Api, database: Database, run: Run
) -> None:
    """Both states have all that an order may have, in characters of four bytes."""

    def widest(length: int, number: int) -> str:
        return chr(0x1F400 + number) + "\U0001f4e6" * (length - 1)

    for number in range(50):
        database.rows("INSERT INTO service (id, name) VALUES ($1, $2)", 10**17 + number, widest(100, number))
    order = api.placed_order(
        at="2199-12-31T23:59:59.999Z",
        fee=9_999_999_999.99,
        services=tuple(10**17 + number for number in range(50)),
        calendar="x" * 64,
        reference="\U0001f4e6" * 64,
        metadata={widest(40, number): "\U0001f4e6" * 500 for number in range(50)},
    )
    reason = {"Change-Reason": "%F0%9F%93%A6" * 200}
    answer = api.client.patch(f"/orders/{order['id']}", json={"totalfee": 8_888_888_888.88}, headers=reason)
    assert answer.status_code == 200
    run(assign_all())
    _, updated = run(whole_log())
    size = len(updated.notification().encode())
    longest_actor = 64
    stated = 264
    assert (stated - 8) * 1024 < size + longest_actor <= stated * 1024, size
    for contract in ("openapi.yaml", "asyncapi.yaml"):
        text = (Path(__file__).parent.parent / "contract" / contract).read_text()
        assert set(re.findall(r"at most (\d+) KiB", text)) == {str(stated)}


def test_the_largest_possible_change_fits_into_64_kib(api: Api, database: Database, run: Run) -> None:
    """The limit that brokers and receivers commonly set: 50 services with the longest names, twice."""

    def widest(character: str, number: int) -> str:
        # Each character takes four bytes in UTF-8, or two where JSON escapes it.
        return f"{number:02}" + character * 98

    for character, expected in (("\U0001f4e6", 40_000), ('"', 20_000), ("\\", 20_000)):
        database.clean()
        ids = [999_999_999_999 - number for number in range(50)]
        for number, service_id in enumerate(ids):
            body = {"id": service_id, "name": widest(character, number)}
            assert api.client.post("/services", json=body).status_code == 201
        order = api.placed_order(
            at="2199-12-31T23:59:59.999Z",
            fee=9_999_999_999.99,
            services=tuple(ids),
            calendar="x" * 64,
        )
        assert api.client.patch(f"/orders/{order['id']}", json={"totalfee": 1.01}).status_code == 200
        run(assign_all())
        _, updated = run(whole_log())
        size = len(updated.notification().encode())
        print(f"{size} bytes")
        assert expected < size <= 64 * 1024
