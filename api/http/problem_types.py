"""The types of problems (RFC 9457), each with a page that explains it: ``/problems/<slug>``. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class ProblemType:
    """A kind of problem: what it is called, what it means and what the caller can do about it."""

    slug: str
    status: int
    title: str
    recovery: str

    @property
    def uri(self) -> str:
        """The path of the page that explains it; the problem's ``type``."""
        return f"/problems/{self.slug}"


MALFORMED_REQUEST = ProblemType(
    "malformed-request",
    400,
    "The request can't be read",
    "Send well-formed UTF-8 JSON without duplicate keys, and only the parameters that the contract names, "
    "each once. `errors` names every fault.",
)
INVALID_CURSOR = ProblemType(
    "invalid-cursor",
    400,
    "The cursor does not belong to this list",
    "Use `next` unchanged. To change the filters, start again without a cursor.",
)
UNAUTHENTICATED = ProblemType(
    "unauthenticated",
    401,
    "No valid API key",
    "Send `Authorization: Bearer <key>` with a key that this deployment knows.",
)
FORBIDDEN = ProblemType(
    "forbidden",
    403,
    "The API key does not allow this",
    "Use a key whose role is `write`, or ask the operator of this deployment for one.",
)
NOT_FOUND = ProblemType(
    "not-found",
    404,
    "Not found",
    "Check the path and the id. A deletion can't be undone.",
)
METHOD_NOT_ALLOWED = ProblemType(
    "method-not-allowed",
    405,
    "Method not allowed",
    "Use one of the methods that the `Allow` header names.",
)
NOT_ACCEPTABLE = ProblemType(
    "not-acceptable",
    406,
    "None of the accepted media types is available",
    "Accept `application/json`, or one of the media types that the contract names for this operation.",
)
ORDERS_TOO_CLOSE = ProblemType(
    "orders-too-close",
    409,
    "Another order is less than three hours away",
    "Orders on one calendar are at least three hours apart. `conflicts` are those that are too close; "
    "`nearest.before` and `nearest.after` are the nearest datetimes that were free.",
)
ORDER_ID_TAKEN = ProblemType(
    "order-id-taken",
    409,
    "The order's id is taken",
    "An id is never reused, not even after its order is deleted. Choose another, or omit `id` to have one "
    "assigned.",
)
BATCH_REFUSED = ProblemType(
    "batch-refused",
    409,
    "Some orders of the batch can't be stored",
    "`items` has one problem for each of them, with its index in the batch. Nothing was stored: correct "
    "those orders and send the whole batch again.",
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
    "Use the service that has it, or choose another name. Names of archived services are free again.",
)
WEBHOOK_DISABLED = ProblemType(
    "webhook-disabled",
    409,
    "The webhook is disabled",
    "The webhook's `disabled` says when and why. Enable it first: PATCH `enabled: true`.",
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
    "The order is at another version",
    "It was changed after you read it. Read it again, check your change against it, and send the new ETag.",
)
BODY_TOO_LARGE = ProblemType(
    "body-too-large",
    413,
    "The body is too large",
    "Send less at once; the contract says how much each operation accepts.",
)
UNSUPPORTED_MEDIA_TYPE = ProblemType(
    "unsupported-media-type",
    415,
    "The body's media type is not supported",
    "Send the media type that the contract names, without a Content-Encoding.",
)
VALIDATION_FAILED = ProblemType(
    "validation-failed",
    422,
    "The request can be read but not accepted",
    "`errors` lists every fault with a JSON Pointer into the body; correct them all and send it again.",
)
IDEMPOTENCY_KEY_REUSED = ProblemType(
    "idempotency-key-reused",
    422,
    "The Idempotency-Key was used for other content",
    "A key identifies one request. Use a new key for a new request, and repeat an earlier one unchanged.",
)
VERSION_REQUIRED = ProblemType(
    "version-required",
    428,
    "If-Match is required",
    "Read the order, and send its ETag in If-Match with the change.",
)
INTERNAL_ERROR = ProblemType(
    "internal-error",
    500,
    "Something went wrong on our side",
    "Nothing was stored unless a later GET shows it. Try again; if it persists, report the `request_id`.",
)
SUMMARIES_BEHIND = ProblemType(
    "summaries-behind",
    503,
    "The fee summaries don't include that change yet",
    "They will include it soon: repeat the request after the seconds in `Retry-After`, or with a longer "
    "`wait`. Or do without the change: `as_of` is what the figures are exact for now.",
)
UNAVAILABLE = ProblemType(
    "unavailable",
    503,
    "The service can't answer right now",
    "Try again after the seconds in `Retry-After`, with the same Idempotency-Key if it was a create.",
)

TYPES: Mapping[str, ProblemType] = {
    value.slug: value for value in list(globals().values()) if isinstance(value, ProblemType)
}
