"""The whole journey: over HTTP, through the queue and a real worker, to the summary."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.drivers import Pipeline


def test_an_order_placed_changed_and_deleted_is_summed_exactly_at_every_stage(pipeline: Pipeline) -> None:
    """Three stages of one order, each awaited and compared to the cent."""
    order = pipeline.api.placed_order(at="2030-06-01T12:00:00Z", fee=100.01, services=(123, 456, 789))
    assert pipeline.wait_until_summed() == 1
    summaries = pipeline.api.fee_summaries(by="service")
    assert summaries["as_of"]["position"] == 1
    assert [(item["service"]["id"], item["orders"], item["totalfee"]) for item in summaries["items"]] == [
        ("123", 1, Decimal("33.34")),
        ("456", 1, Decimal("33.34")),
        ("789", 1, Decimal("33.33")),
    ]

    pipeline.api.client.patch(f"/orders/{order['id']}", json={"totalfee": 7, "services": [{"id": 456}]})
    assert pipeline.wait_until_summed() == 2
    (item,) = pipeline.api.fee_summaries(by="service")["items"]
    assert (item["service"]["id"], item["totalfee"]) == ("456", Decimal("7.00"))

    assert pipeline.api.client.delete(f"/orders/{order['id']}").status_code == 204
    assert pipeline.wait_until_summed() == 3
    assert pipeline.api.fee_summaries()["items"] == []
