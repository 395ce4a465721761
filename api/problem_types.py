"""The types of problems (RFC 9457) with orders, services, webhooks, changes and reports; and all types. Pure.

Each has a page that explains it: ``/problems/<slug>``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http import problem_types as of_requests
from api.http.problem_types import ProblemType

if TYPE_CHECKING:
    from collections.abc import Mapping

ORDERS_TOO_CLOSE = ProblemType(
    "orders-too-close",
    409,
    "Another order is too close",
    "Orders on one calendar are at least its `spacing` apart: three hours, unless it has been given another. "
    "`conflicts` are those that are too close; "
    "`nearest.before` and `nearest.after` are the nearest datetimes that were free.",
)
ORDER_ID_TAKEN = ProblemType(
    "order-id-taken",
    409,
    "The order's id is taken",
    "An id is never reused, not even after its order is deleted. Choose another, or omit `id` to have one "
    "assigned.",
)
REFERENCE_TAKEN = ProblemType(
    "reference-taken",
    409,
    "Another order has this reference",
    "`order_id` is the order that has it: a reference belongs to one order. If this is a repeated request, "
    "that may be the order you want. Otherwise choose another reference.",
)
ORDER_CANCELLED = ProblemType(
    "order-cancelled",
    409,
    "The order is cancelled",
    "Only the reference and the metadata of a cancelled order can be changed. To change anything else, "
    "reinstate it first: `POST /orders/{order_id}/reinstate`.",
)
BATCH_REFUSED = ProblemType(
    "batch-refused",
    409,
    "Some orders of the batch are refused",
    "`items` has one problem for each of them, with its index in the batch. Nothing was written: correct "
    "those orders and send the whole batch again.",
)
SPACING_TOO_LARGE = ProblemType(
    "spacing-too-large",
    409,
    "The calendar's orders are nearer to each other than this spacing",
    "`pairs` are booked orders, one after the other, that are nearer than the `spacing` sent; at most the "
    "first 100. Move or cancel one of each pair, or send at most `largest`. Orders imported together may be "
    "nearer.",
)
CALENDAR_IN_USE = ProblemType(
    "calendar-in-use",
    409,
    "The calendar has orders",
    "Only a calendar without orders can be deleted. `orders` says how many it has; cancelled ones count. "
    "Delete them, or move them to another calendar.",
)
SERVICE_ID_TAKEN = ProblemType(
    "service-id-taken",
    409,
    "The service's id is taken",
    "Choose another id, or omit `id` to have one assigned.",
)
SERVICE_NAME_TAKEN = ProblemType(
    "service-name-taken",
    409,
    "Another service has this name",
    "Use the service that has it, or choose another name. Case and the form of letters, such as full width, "
    "make no difference. Names of archived services are free again.",
)
WEBHOOK_DISABLED = ProblemType(
    "webhook-disabled",
    409,
    "The webhook is disabled",
    "The webhook's `disabled` says when and why. Enable it first: PATCH `enabled: true`.",
)
TOO_MANY_WEBHOOKS = ProblemType(
    "too-many-webhooks",
    409,
    "There are as many webhooks as this deployment allows",
    "Delete a webhook that is no longer needed, or change one: PATCH its `url`, `types` or `calendars`. The "
    "operator of the service can allow more (`OMS_MAX_WEBHOOKS`).",
)
KEY_NAME_TAKEN = ProblemType(
    "key-name-taken",
    409,
    "Another API key has this name",
    "Changes name the key that made them, so no two keys in use have one name. Choose another name, or "
    "rotate or revoke the key that has it. Names of revoked keys are free again.",
)
TOO_MANY_KEYS = ProblemType(
    "too-many-keys",
    409,
    "There are as many API keys as there may be",
    "Revoke keys that are no longer needed, or that have expired.",
)
POSITION_EXPIRED = ProblemType(
    "position-expired",
    410,
    "The change log can't continue from this position",
    "Changes after it are no longer retained, or the position is of another log. Read all orders again, then "
    "continue from `resume`, which begins at the first change that is retained.",
)
REPORT_EXPIRED = ProblemType(
    "report-expired",
    410,
    "The figures for this position are no longer available",
    "Figures are available for the current position and a limited number of changes back. Start the report "
    "again, without `cursor` and `position`: it is then exact for `latest_position`, or a later one.",
)
VERSION_MISMATCH = ProblemType(
    "version-mismatch",
    412,
    "A condition on the order's version is not met",
    "It was changed after you read it: read it again, check your change against it, and send the new ETag. "
    "Or the tag in If-Match is weak: send the ETag as the order has it, without W/.",
)
SUMMARIES_BEHIND = ProblemType(
    "summaries-behind",
    503,
    "The fee summaries don't include that change yet",
    "They will include it soon: repeat the request after the seconds in `Retry-After`, or with a longer "
    "`wait`. Or do without the change: `as_of` is what the figures are exact for now.",
)

TYPES: Mapping[str, ProblemType] = {
    value.slug: value
    for value in (*vars(of_requests).values(), *list(globals().values()))
    if isinstance(value, ProblemType)
}
"""Every type, by its slug."""
