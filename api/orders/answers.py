"""What the routes that write orders have in common: the parameter ``dry_run``, and an order as the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from api.http.media_types import JSON
from api.http.parameters import Query, query_of, read_boolean
from api.http.read_after import read_after
from api.http.responses import BytesResponse
from api.http.scopes import ORDERS_WRITE

if TYPE_CHECKING:
    from litestar import Response

    from api.http.idempotency_keys import Answer
    from api.http.request import AnyRequest
    from api.orders.queries import StoredOrder

WRITE: dict[str, Any] = {"scope": ORDERS_WRITE, "query": Query({"dry_run": read_boolean})}
"""The options of a route that writes orders."""


def is_dry_run_of(request: AnyRequest) -> bool:
    """Return whether nothing is to be stored; see ``roll_back_if``."""
    return bool(query_of(request).get("dry_run"))


class _Written(msgspec.Struct):
    """What identifies a version, in an order of an answer."""

    id: str
    version: int
    updated_at: str = ""
    """Absent from what the earliest releases answered."""


class _WrittenOrders(msgspec.Struct):
    orders: list[_Written]


def read_after_batch(answer: Answer, *, is_deletion: bool = False) -> dict[str, str]:
    """Return the header ``Read-After`` of the answer to a write of many orders.

    They were written by one transaction, so one version stands for all. Some orders may have stayed as they
    were: of the stored answer to an earlier request, the last that was written is taken.
    """
    if answer.written is not None:
        return read_after(*answer.written)
    orders = msgspec.json.decode(answer.text, type=_WrittenOrders).orders
    last = max(orders, key=lambda order: order.updated_at.rstrip("Z"))
    return read_after(last.id, last.version + is_deletion)


def answer_order(order: StoredOrder, *, is_dry_run: bool = False) -> Response[bytes]:
    """Answer with an order, and with its entity tag if it is stored."""
    headers = {} if is_dry_run else {"ETag": order.tag, **read_after(order.id, order.version)}
    return BytesResponse(order.json.encode(), status_code=200, media_type=JSON, headers=headers)
