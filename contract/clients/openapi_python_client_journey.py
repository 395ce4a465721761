"""One journey with the client that openapi-python-client generates."""

import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from order_management_client import Client
from order_management_client.api.fee_summaries import list_fee_summaries
from order_management_client.api.orders import (
    create_order,
    delete_order,
    get_order,
    list_orders,
    update_order,
)
from order_management_client.models.fee_summary_list import FeeSummaryList
from order_management_client.models.new_order import NewOrder
from order_management_client.models.not_found import NotFound
from order_management_client.models.order import Order
from order_management_client.models.order_list import OrderList
from order_management_client.models.order_patch import OrderPatch
from order_management_client.models.orders_too_close import OrdersTooClose
from order_management_client.models.service_choice_item import ServiceChoiceItem
from order_management_client.models.version_mismatch import VersionMismatch
from order_management_client.types import UNSET, Unset

CALENDAR = "openapi-python-client"
BEGIN = datetime(2031, 5, 1, 9, tzinfo=UTC)
client = Client(base_url=sys.argv[1])


def new_order(at: datetime, fee: float) -> NewOrder:
    return NewOrder(totalfee=fee, services=[ServiceChoiceItem(id="456")], datetime_=at, calendar=CALENDAR)


def create(at: datetime, fee: float) -> Order:
    order = create_order.sync(client=client, body=new_order(at, fee))
    assert isinstance(order, Order), order
    return order


def tag_of(order: Order) -> str:
    return get_order.sync_detailed(order.id, client=client).headers["ETag"]


first = create(BEGIN, 100.10)
assert (first.version, first.datetime_) == (1, BEGIN)

refusal = create_order.sync(client=client, body=new_order(BEGIN + timedelta(hours=1), 1))
assert isinstance(refusal, OrdersTooClose), refusal
assert [conflict.id for conflict in refusal.conflicts] == [first.id]
after = refusal.nearest.after
assert after == BEGIN + timedelta(hours=3)
second = create(after, 0.07)
third = create(BEGIN + timedelta(days=1), 5)

tag = tag_of(first)
written = update_order.sync(first.id, client=client, body=OrderPatch(totalfee=200.25), if_match=tag)
assert isinstance(written, Order), written
assert written.version == 2
stale = update_order.sync(first.id, client=client, body=OrderPatch(totalfee=1), if_match=tag)
assert isinstance(stale, VersionMismatch), stale

ids = []
cursor: str | Unset = UNSET
while True:
    page = list_orders.sync(client=client, calendar=[CALENDAR], limit=1, cursor=cursor)
    assert isinstance(page, OrderList), page
    ids += [order.id for order in page.items]
    if page.next_cursor is None:
        break
    cursor = page.next_cursor
assert ids == [first.id, second.id, third.id], ids

assert delete_order.sync_detailed(third.id, client=client, if_match=tag_of(third)).status_code == 204
assert isinstance(get_order.sync(third.id, client=client), NotFound)

summaries = list_fee_summaries.sync(
    client=client, calendar=[CALENDAR], after_version=f"{third.id}:2", wait=10
)
assert isinstance(summaries, FeeSummaryList), summaries
assert summaries.totals.orders == 2
assert Decimal(str(summaries.totals.totalfee)) == Decimal("200.32")
