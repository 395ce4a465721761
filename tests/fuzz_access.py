"""Keys and versions in fuzzed requests: which are sent, and where the service must ask for them."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Any

import schemathesis

if TYPE_CHECKING:
    from schemathesis import Case, CheckContext, Response

GUARDED = os.environ.get("ORDERS_FUZZED_AS") == "guarded"
"""Whether the service that is fuzzed asks for keys, and for versions (``tests.fuzz.GUARDED``)."""

VERSION_IN_HEADER = {
    ("PUT", "/orders/{order_id}"),
    ("PATCH", "/orders/{order_id}"),
    ("DELETE", "/orders/{order_id}"),
    ("POST", "/orders/{order_id}/cancel"),
    ("POST", "/orders/{order_id}/reinstate"),
}
VERSION_IN_BODY = {
    ("PATCH", "/orders/batch"),
    ("POST", "/orders/batch/cancel"),
    ("POST", "/orders/batch/delete"),
}


def orders_of(body: object) -> list[dict[str, Any]]:
    """Return the orders of a batch, if a body is like one."""
    orders = body.get("orders") if isinstance(body, dict) else None
    return [order for order in orders if isinstance(order, dict)] if isinstance(orders, list) else []


def send_a_key(case: Case[Any]) -> None:
    """Send valid requests as any caller; send all others as one who may do everything, with versions.

    Only then is an invalid request refused for its own faults, and a sequence followed to its end.
    """
    sound = case.meta is not None and case.meta.generation.mode.is_positive
    if sound and case.meta is not None and case.meta.phase.name != "stateful":
        drawn = zlib.crc32(repr((case.path, case.method, case.query, case.body, dict(case.headers))).encode())
        caller = ("nobody", "stranger", "reader")[drawn % 8] if drawn % 8 < 3 else "writer"
    else:
        caller = "writer"
        if (case.method, case.path) in VERSION_IN_HEADER and "If-Match" not in case.headers:
            case.headers["If-Match"] = "*"
        if (case.method, case.path) in VERSION_IN_BODY:
            for order in orders_of(case.body):
                if order.get("version") is None:
                    order["version"] = 1
    case.headers.pop("Authorization", None)
    if caller != "nobody":
        case.headers["Authorization"] = f"Bearer the key of the {caller}"


@schemathesis.check
def keys_and_versions_are_required_exactly_where_they_must_be(
    _context: CheckContext, response: Response, case: Case[Any]
) -> None:
    """Check that 401, 403 and 428 are answered exactly where the deployment requires it."""
    key = str(response.request.headers.get("Authorization", "")).removeprefix("Bearer the key of the ")
    wanted = _status_that_is_due(response, case, key)
    if wanted is None and response.status_code in (401, 403, 428):
        raise AssertionError(f"{response.status_code} for {key or 'no key'}, which allows this")
    sound = case.meta is not None and case.meta.generation.mode.is_positive
    # What a body says is known only once it was read, and it is refused then for all its faults.
    is_read = (case.method, case.path) in VERSION_IN_BODY or (not GUARDED and case.path == "/keys")
    is_unread = wanted in (403, 428) and is_read and response.status_code == 422
    if wanted is not None and sound and response.status_code != wanted and not is_unread:
        raise AssertionError(f"{response.status_code} instead of {wanted} for {key or 'no key'}")


def _status_that_is_due(response: Response, case: Case[Any], key: str) -> int | None:
    if not GUARDED and (case.method, case.path) == ("POST", "/keys"):
        return 403  # the first key is the operator's
    if not GUARDED or case.operation.definition.raw.get("security") == []:
        return None
    if key not in ("reader", "writer"):
        return 401
    if case.path.startswith("/keys"):  # no key of the settings may manage keys
        return 403
    reads = case.method in ("GET", "HEAD", "OPTIONS") or case.path == "/stream-tickets"
    if key == "reader" and not reads:
        return 403
    if (case.method, case.path) in VERSION_IN_HEADER:
        return None if "If-Match" in response.request.headers else 428
    if (case.method, case.path) in VERSION_IN_BODY:
        return 428 if any(order.get("version") is None for order in orders_of(case.body)) else None
    return None
