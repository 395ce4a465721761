"""The kinds of problems there are, each with a page that explains it: ``/problems/<slug>``. Pure."""

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
    "Follow `next` as it was given. To change its filters, start again without a cursor.",
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
    "The API key may not do this",
    "Use a key whose role is `write`, or ask whoever runs this deployment for one.",
)
NOT_FOUND = ProblemType(
    "not-found",
    404,
    "There is no such thing here",
    "Check the path and the id. What was deleted stays deleted.",
)
METHOD_NOT_ALLOWED = ProblemType(
    "method-not-allowed",
    405,
    "This method does not exist here",
    "Use one of the methods that the `Allow` header names.",
)
NOT_ACCEPTABLE = ProblemType(
    "not-acceptable",
    406,
    "None of the accepted media types can be given",
    "Accept `application/json`, or one of the media types that the contract names for this operation.",
)
ORDERS_TOO_CLOSE = ProblemType(
    "orders-too-close",
    409,
    "Another order is less than three hours away",
    "Orders on one calendar are at least three hours apart. `conflicts` are the orders in the way; "
    "`nearest.before` and `nearest.after` are the nearest datetimes that were free.",
)
ORDER_ID_TAKEN = ProblemType(
    "order-id-taken",
    409,
    "The order's id is taken",
    "An id names one order for ever, also after its deletion. Choose another, or leave `id` out and get one.",
)
BATCH_REFUSED = ProblemType(
    "batch-refused",
    409,
    "Orders of the batch can't be stored",
    "`items` has one problem for each of them, by its index in the batch. Nothing was stored: mend those and "
    "send the whole batch again.",
)
SERVICE_ID_TAKEN = ProblemType(
    "service-id-taken",
    409,
    "The service's id is taken",
    "Choose another id, or leave `id` out and get one.",
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
    "Nothing is sent to this webhook",
    "It was disabled; `disabled` of the webhook says when and why. Enable it first: PATCH `enabled: true`.",
)
POSITION_EXPIRED = ProblemType(
    "position-expired",
    410,
    "The change log doesn't go on from this position",
    "Changes after it are no longer retained, or the position is of another log. Read all orders again, then "
    "go on from `resume`, which begins at the first change that is retained.",
)
REPORT_EXPIRED = ProblemType(
    "report-expired",
    410,
    "The figures of this position can't be given any more",
    "Figures are given for the present position and some way back. Begin the report again, without `cursor` "
    "and `position`: it is then exact for `latest_position`, or a later one.",
)
VERSION_MISMATCH = ProblemType(
    "version-mismatch",
    412,
    "The order is at another version",
    "Somebody changed it since you read it. Read it again, decide again, and send the new ETag.",
)
BODY_TOO_LARGE = ProblemType(
    "body-too-large",
    413,
    "The body is too large",
    "Send less at once; the contract says how much each operation takes.",
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
    "`errors` lists every fault with a JSON Pointer into the body; mend them all and send it again.",
)
IDEMPOTENCY_KEY_REUSED = ProblemType(
    "idempotency-key-reused",
    422,
    "The Idempotency-Key was used for other content",
    "A key names one attempt at one thing. Use a new key for a new order, and repeat an old one unchanged.",
)
VERSION_REQUIRED = ProblemType(
    "version-required",
    428,
    "This deployment writes only with If-Match",
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
    "It will be in them soon: ask again after the seconds that `Retry-After` names, with a longer `wait`, or "
    "do without it: `as_of` is what the figures are exact for at present.",
)
UNAVAILABLE = ProblemType(
    "unavailable",
    503,
    "The service can't answer right now",
    "Try again after the seconds that `Retry-After` names, with the same Idempotency-Key if it was a create.",
)

TYPES: Mapping[str, ProblemType] = {
    value.slug: value for value in list(globals().values()) if isinstance(value, ProblemType)
}
