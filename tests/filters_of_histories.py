"""Lists by each filter, compared with the model of a random history."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.drivers import Api
    from tests.model import Model, ModelOrder


def check_filters(api: Api, model: Model) -> None:
    """Compare the list of every status, service, calendar, reference and metadata that an order has."""
    lists: dict[tuple[str, str], list[ModelOrder]] = {("status", "booked"): [], ("status", "cancelled"): []}
    for order in sorted(model.orders.values(), key=lambda one: (one.at, one.id)):
        has = [("status", order.status), ("calendar", order.calendar)]
        has += [("service", str(service)) for service, _ in order.services]
        has += [(f"metadata[{key}]", value) for key, value in order.metadata.items()]
        has += [("reference", order.reference)] if order.reference is not None else []
        for one in has:
            lists.setdefault(one, []).append(order)
    for (name, value), orders in lists.items():
        page = api.client.get("/orders", params={name: value, "limit": "100"}).json()
        assert [int(order["id"]) for order in page["items"]] == [order.id for order in orders], (name, value)
        assert page["next"] is None
