"""Problem details (RFC 9457): the only place where an error gets a status code.

Commands and queries raise errors that are nouns of the domain and carry data; this module says how each is
answered. What a caller sees never holds a stack trace, SQL or any other internals.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from api.orders import errors as orders
from api.times import utc_text
from shared.database import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

log = structlog.get_logger(__name__)


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
INTERNAL_ERROR = ProblemType(
    "internal-error",
    500,
    "Something went wrong on our side",
    "Nothing was stored unless a later GET shows it. Try again; if it persists, report the `request_id`.",
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

RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a request: where, and what would be right."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None

    def shown(self) -> dict[str, str]:
        """Give the fault as a member of ``errors``."""
        places = {"pointer": self.pointer, "parameter": self.parameter, "header": self.header}
        return {name: place for name, place in places.items() if place is not None} | {"detail": self.detail}


@dataclass
class ProblemError(Exception):
    """A request that ends in a problem, raised where HTTP itself is at fault."""

    type: ProblemType
    detail: str
    faults: Sequence[Fault] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, Any] = field(default_factory=dict)


def malformed(*faults: Fault) -> ProblemError:
    """Build the problem for a request that can't be read."""
    return ProblemError(MALFORMED_REQUEST, _in_words(faults), faults)


def invalid(*faults: Fault) -> ProblemError:
    """Build the problem for a body that can be read and is not acceptable."""
    return ProblemError(VALIDATION_FAILED, _in_words(faults), faults)


def _in_words(faults: Sequence[Fault]) -> str:
    first = faults[0]
    place = first.pointer or first.parameter or first.header
    more = f" ({len(faults) - 1} more in errors)" if len(faults) > 1 else ""
    return f"{place}: {first.detail}{more}" if place else f"{first.detail}{more}"


def _too_close(error: orders.OrdersTooCloseError) -> ProblemError:
    free = [utc_text(at) for at in (error.nearest_before, error.nearest_after) if at is not None]
    return ProblemError(
        ORDERS_TOO_CLOSE,
        f"{utc_text(error.asked)} on calendar {error.calendar} is less than three hours from "
        f"{'order' if len(error.conflicts) == 1 else 'orders'} "
        f"{', '.join(f'{c.id} at {utc_text(c.datetime)}' for c in error.conflicts[:3])}"
        f"{', …' if len(error.conflicts) > 3 else ''}. "  # noqa: PLR2004 (enough for a sentence)
        + (f"Nearest free: {' or '.join(free)}." if free else "No datetime is free on this calendar."),
        members={
            "conflicts": [{"id": str(c.id), "datetime": utc_text(c.datetime)} for c in error.conflicts],
            "nearest": {
                "before": utc_text(error.nearest_before) if error.nearest_before else None,
                "after": utc_text(error.nearest_after) if error.nearest_after else None,
            },
        },
    )


def _unavailable(error: Exception) -> ProblemError:
    log.warning("unavailable", reason=str(error))
    return ProblemError(
        UNAVAILABLE,
        "The database is busy or out of reach; nothing was decided about this request.",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def _of_framework(error: HTTPException) -> ProblemError:
    headers = dict(error.headers or {})
    by_status = {
        404: (NOT_FOUND, "No route has this path."),
        405: (METHOD_NOT_ALLOWED, "This path has other methods; see Allow."),
        413: (BODY_TOO_LARGE, "The body is larger than this operation takes."),
    }
    if error.status_code in by_status:
        kind, detail = by_status[error.status_code]
        return ProblemError(kind, detail, headers=headers)
    if 400 <= error.status_code < 500:  # noqa: PLR2004 (a class of status codes)
        return malformed(Fault("The request can't be read."))
    return _unforeseen(error)


def _unforeseen(error: Exception) -> ProblemError:
    log.error("internal_error", exc_info=error)
    return ProblemError(INTERNAL_ERROR, "The log has the rest, under this request_id.")


_PROBLEM_OF: dict[type[Exception], Callable[[Any], ProblemError]] = {
    ProblemError: lambda error: error,
    HTTPException: _of_framework,
    DatabaseUnavailableError: _unavailable,
    orders.ContentionError: _unavailable,
    orders.OrdersTooCloseError: _too_close,
    orders.OrderNotFoundError: lambda error: ProblemError(NOT_FOUND, f"There is no order {error.order_id}."),
    orders.OrderIdTakenError: lambda error: ProblemError(
        ORDER_ID_TAKEN, f"Id {error.order_id} is, or was, the id of another order."
    ),
    orders.ServicesNotOrderableError: lambda error: invalid(
        *(Fault(reason, pointer=f"#/services/{index}/id") for index, reason in error.faults)
    ),
    orders.ServiceNotFoundError: lambda error: ProblemError(
        NOT_FOUND, f"There is no service {error.service_id}."
    ),
    orders.ServiceIdTakenError: lambda error: ProblemError(
        SERVICE_ID_TAKEN, f"Id {error.service_id} is the id of another service."
    ),
    orders.ServiceNameTakenError: lambda error: ProblemError(
        SERVICE_NAME_TAKEN, f"Another service is called {error.name!r}."
    ),
    Exception: _unforeseen,
}
"""How each error is answered. What is not known here is a 500, and the log has the rest."""


def problem_of(error: Exception) -> ProblemError:
    """Say how an error is answered."""
    nearest = next(kind for kind in type(error).__mro__ if kind in _PROBLEM_OF)
    return _PROBLEM_OF[nearest](error)


_encode = msgspec.json.Encoder().encode


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer any error with problem details; Litestar's handler for every exception."""
    problem = problem_of(error)
    body: dict[str, Any] = {
        "type": problem.type.uri,
        "title": problem.type.title,
        "status": problem.type.status,
        "detail": problem.detail,
        "instance": request.url.path,
        "request_id": request.scope.get("request_id"),
        **problem.members,
    }
    if problem.faults:
        body["errors"] = [fault.shown() for fault in problem.faults]
    return Response(
        _encode(body),
        status_code=problem.type.status,
        media_type="application/problem+json",
        headers=dict(problem.headers),
    )
