"""The orders behind fee summaries add up to every figure, to the cent."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from tests.fee_summary_history import SERVICES, History
from tests.fee_summary_model import Query, counted_orders
from tests.fee_summary_steps import exactly, pages
from tests.steps import apply_every_change

if TYPE_CHECKING:
    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _services(database: Database) -> None:
    database.add_services()


@pytest.mark.parametrize("seed", [23, 28])
def test_the_orders_listed_for_a_summary_row_add_up_to_it(run: Run, api: Api, seed: int) -> None:
    """Their number, the sum of their fees, the least and the greatest."""
    history = History(seed)
    run(history.write(40))
    run(apply_every_change())
    for position in range(0, 41, 8):
        query = Query(
            by=tuple(history.rng.sample(("service", "calendar"), history.rng.randint(0, 2))),
            group_by=history.rng.choice(("day", "week", "quarter")),
            services=tuple(history.rng.sample(SERVICES, history.rng.choice((0, 1, 2)))),
            first=date(2030, 6, 10) if history.rng.random() < 0.5 else None,
        )
        for item in (item for page in pages(api, query, position=str(position)) for item in page["items"]):
            behind = exactly(api.client.get(f"{item['counted_orders']}&limit=100"))
            assert behind["as_of"]["position"] == position
            counted = [order["counted"] for order in behind["items"]]
            assert sum(counted) == item["totalfee"]
            if item["orders"] is not None:
                assert (len(counted), min(counted), max(counted)) == (
                    item["orders"],
                    item["minfee"],
                    item["maxfee"],
                )
            for order in behind["items"]:
                assert sum(service["share"] for service in order["services"]) == order["totalfee"]
        everything = api.every_item(f"/fee-summaries/orders?position={position}&limit=7")
        assert [item["id"] for item in everything] == [
            order_id for order_id, _ in counted_orders(history.at(position), Query())
        ]
