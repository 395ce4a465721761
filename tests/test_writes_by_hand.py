"""SQL that operators type: no isolation level and no value of theirs breaks what the service promises."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.builders import NOON, later, order_body
from tests.consistency import stays_consistent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from tests.drivers import Api, Database

# Orders near an earlier neighbour, or on a calendar that was deleted.
_MISPLACED = """
SELECT o.id FROM orders AS o JOIN calendar AS c ON c.id = o.calendar_id
WHERE c.deleted_at IS NOT NULL OR EXISTS (
    SELECT FROM orders AS later
    WHERE later.calendar_id = o.calendar_id AND later.import_id <> o.import_id AND later.datetime > o.datetime
        AND later.datetime < o.datetime + make_interval(secs => c.spacing_seconds)
)
"""

_ORDER_BEFORE_NOON = """
INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
SELECT '2030-06-01T08:00Z', 1, '{123}', '{Inspection}', id FROM calendar WHERE name = 'default'
"""


@pytest.fixture(autouse=True)
def _check_consistency(database: Database) -> Iterator[None]:
    with stays_consistent(database):
        yield
    assert database.rows(_MISPLACED) == []


def by_hand(database: Database, level: str, meanwhile: Callable[[], httpx.Response], sql: str) -> bool:
    """Run SQL in a transaction that began before a request, and return whether it was committed."""

    async def run() -> bool:
        connection = await asyncpg.connect(database.url)
        try:
            await connection.execute(f"BEGIN ISOLATION LEVEL {level}; SELECT FROM orders")
            answer = await asyncio.to_thread(meanwhile)
            assert answer.is_success, answer.text
            await connection.execute(f"{sql}; COMMIT")
        except asyncpg.PostgresError:
            return False
        finally:
            await connection.close()
        return True

    return asyncio.run(run())


LEVELS = pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])


@LEVELS
def test_an_order_is_placed_by_the_spacing_of_now(api: Api, database: Database, level: str) -> None:
    """The calendar got a larger one since the transaction began."""
    api.placed_order(at=NOON)

    def enlarge() -> httpx.Response:
        return api.client.patch("/calendars/default", json={"spacing": "P1D"})

    assert not by_hand(database, level, enlarge, _ORDER_BEFORE_NOON)


@LEVELS
def test_an_order_is_placed_if_its_calendar_stays_as_it_is(api: Api, database: Database, level: str) -> None:
    """Every isolation level can be used for that."""
    api.placed_order(at=NOON)

    def place() -> httpx.Response:
        return api.place_order(at=later(days=1))

    assert by_hand(database, level, place, _ORDER_BEFORE_NOON)


@LEVELS
def test_a_spacing_is_refused_for_orders_placed_since_the_transaction_began(
    api: Api, database: Database, level: str
) -> None:
    """It would not reach them."""
    api.placed_order(at=NOON)

    def place() -> httpx.Response:
        return api.place_order(at=later(hours=-4))

    assert not by_hand(database, level, place, "UPDATE calendar SET spacing_seconds = 86400")


@LEVELS
def test_a_calendar_is_not_deleted_with_orders_placed_since_the_transaction_began(
    api: Api, database: Database, level: str
) -> None:
    """They would be on no calendar."""
    api.client.put("/calendars/crew-1", json={})

    def place() -> httpx.Response:
        return api.client.post("/orders", json=order_body(calendar="crew-1"))

    deletion = "UPDATE calendar SET deleted_at = now() WHERE name = 'crew-1'"
    assert not by_hand(database, level, place, deletion)


@pytest.mark.parametrize(
    "metadata", ['{"a": 1}', '{"a": null}', '{"a": ["x"]}', '{"a": []}', '{"a": {}}', "[]"]
)
def test_metadata_has_texts_only(api: Api, database: Database, metadata: str) -> None:
    """Others could neither be found nor exported."""
    order = api.placed_order(at=NOON, metadata={"a": "b"})
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        database.rows("UPDATE orders SET metadata = $1, version = version + 1", metadata)
    assert api.client.get(f"/orders/{order['id']}").json() == order
