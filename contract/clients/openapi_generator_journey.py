"""One journey with the Python client that openapi-generator generates."""

import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from openapi_generator_client import (
    ApiClient,
    ApiException,
    Configuration,
    FeeSummariesApi,
    NewOrder,
    Order,
    OrderPatch,
    OrdersApi,
    OrdersTooClose,
    ServiceChoiceInner,
    VersionMismatch,
)
from openapi_generator_client.models.any_id import AnyId
from openapi_generator_client.models.order_conflict import OrderConflict

CALENDAR = "openapi-generator"
BEGIN = datetime(2031, 5, 1, 9, tzinfo=UTC)
client = ApiClient(Configuration(host=sys.argv[1]))
orders = OrdersApi(client)


def new_order(at: datetime, fee: float) -> NewOrder:
    return NewOrder(
        totalfee=fee, services=[ServiceChoiceInner(id=AnyId("456"))], datetime_=at, calendar=CALENDAR
    )


def create(at: datetime, fee: float) -> Order:
    # Typed as the answer of the lowest status, 200 (a dry run); what it returns is that of the status, 201.
    order: object = orders.create_order(new_order(at, fee))
    assert isinstance(order, Order), order
    return order


def tag_of(order: Order) -> str:
    headers = orders.get_order_with_http_info(order.id).headers
    assert headers is not None
    return {name.lower(): value for name, value in headers.items()}["etag"]


first = create(BEGIN, 100.10)
assert (first.version, first.datetime_) == (1, BEGIN)

try:
    orders.create_order(new_order(BEGIN + timedelta(hours=1), 1))
    raise SystemExit("an order too close was accepted")
except ApiException as error:
    assert error.status == 409, error
    assert isinstance(error.data, OrderConflict), error.data
    refusal = error.data.actual_instance
assert isinstance(refusal, OrdersTooClose), refusal
assert [conflict.id for conflict in refusal.conflicts] == [first.id]
after = refusal.nearest.after
assert after == BEGIN + timedelta(hours=3)
second = create(after, 0.07)
third = create(BEGIN + timedelta(days=1), 5)

tag = tag_of(first)
assert orders.update_order(first.id, OrderPatch(totalfee=200.25), if_match=tag).version == 2
try:
    orders.update_order(first.id, OrderPatch(totalfee=1), if_match=tag)
    raise SystemExit("a stale version was written")
except ApiException as error:
    assert isinstance(error.data, VersionMismatch), error.data

ids = []
cursor: str | None = None
while True:
    page = orders.list_orders(calendar=[CALENDAR], limit=1, cursor=cursor)
    ids += [order.id for order in page.items]
    cursor = page.next_cursor
    if cursor is None:
        break
assert ids == [first.id, second.id, third.id], ids

orders.delete_order(third.id, if_match=tag_of(third))
try:
    orders.get_order(third.id)
    raise SystemExit("a deleted order can be read")
except ApiException as error:
    assert error.status == 404, error

summaries = FeeSummariesApi(client).list_fee_summaries(
    calendar=[CALENDAR], after_version=f"{third.id}:2", wait=10
)
assert summaries.totals.orders == 2
assert Decimal(str(summaries.totals.totalfee)) == Decimal("200.32")
