"""Problem details (RFC 9457): the only place where an error gets a status code.

Commands and queries raise errors that are nouns of the domain and carry data; this module says how each is
answered. What a caller sees never holds a stack trace, SQL or any other internals.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from api.fee_summaries import errors as fee_summaries
from api.order_change_queries import PositionNotInLogError
from api.orders import errors as orders
from api.problem_types import (
    BATCH_REFUSED,
    BODY_TOO_LARGE,
    IDEMPOTENCY_KEY_REUSED,
    INTERNAL_ERROR,
    MALFORMED_REQUEST,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    ORDER_ID_TAKEN,
    ORDERS_TOO_CLOSE,
    POSITION_EXPIRED,
    REPORT_EXPIRED,
    SERVICE_ID_TAKEN,
    SERVICE_NAME_TAKEN,
    SUMMARIES_BEHIND,
    UNAVAILABLE,
    VALIDATION_FAILED,
    VERSION_MISMATCH,
    WEBHOOK_DISABLED,
    ProblemType,
)
from api.times import utc_text
from api.webhooks import errors as webhooks
from shared.database.engine import DatabaseUnavailableError, LockTimeoutError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

log = structlog.get_logger(__name__)


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


def _conflict(conflict: orders.Conflict) -> dict[str, object]:
    place = {"id": str(conflict.id)} if conflict.index is None else {"index": conflict.index}
    return {**place, "datetime": utc_text(conflict.datetime)}


def _in_the_way(conflict: orders.Conflict) -> str:
    name = f"order {conflict.id}" if conflict.index is None else f"the batch's order {conflict.index}"
    return f"{name} at {utc_text(conflict.datetime)}"


def _too_close(error: orders.OrdersTooCloseError) -> ProblemError:
    free = [utc_text(at) for at in (error.nearest_before, error.nearest_after) if at is not None]
    return ProblemError(
        ORDERS_TOO_CLOSE,
        f"{utc_text(error.asked)} on calendar {error.calendar} is less than three hours from "
        f"{', '.join(map(_in_the_way, error.conflicts[:3]))}"
        f"{', …' if len(error.conflicts) > 3 else ''}. "  # enough for a sentence
        + (f"Nearest free: {' or '.join(free)}." if free else "No datetime is free on this calendar."),
        members={
            "conflicts": [_conflict(conflict) for conflict in error.conflicts],
            "nearest": {
                "before": utc_text(error.nearest_before) if error.nearest_before else None,
                "after": utc_text(error.nearest_after) if error.nearest_after else None,
            },
        },
    )


def _try_again(event: str, detail: str) -> Callable[[Exception], ProblemError]:
    def answered(error: Exception) -> ProblemError:
        log.warning(event, reason=str(error))
        return ProblemError(UNAVAILABLE, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})

    return answered


_unavailable = _try_again(
    "unavailable", "The database is busy or out of reach; nothing was decided about this request."
)
_held_up = _try_again(
    "held_up",
    "A long transaction, such as an import, holds what this would read or change. Nothing was stored.",
)
_outcome_unknown = _try_again(
    "outcome_unknown",
    "The connection to the database broke while the request was being stored: nothing or all of it was "
    "stored. Repeat it, a POST with its Idempotency-Key.",
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
        if kind is BODY_TOO_LARGE:
            # The server closes a connection whose body it has not read; a caller who isn't told so sends the
            # next request into that and gets no answer (seen with 1 in 8 of them).
            headers["Connection"] = "close"
        return ProblemError(kind, detail, headers=headers)
    if 400 <= error.status_code < 500:  # a class of status codes
        return malformed(Fault("The request can't be read."))
    return _unforeseen(error)


def _unforeseen(error: Exception) -> ProblemError:
    log.error("internal_error", exc_info=error)
    return ProblemError(INTERNAL_ERROR, "The log has the rest, under this request_id.")


def _batch_refused(error: orders.BatchRefusedError) -> ProblemError:
    items = []
    for index, refusal in error.refusals:
        problem = problem_of(refusal)
        items.append(
            {
                "index": index,
                "type": problem.type.uri,
                "title": problem.type.title,
                "status": problem.type.status,
                "detail": problem.detail,
                **problem.members,
            }
        )
    return ProblemError(
        BATCH_REFUSED,
        f"{len(items)} of the batch's orders can't be stored, so none is: see items.",
        members={"items": items},
    )


def _not_in_log(error: PositionNotInLogError) -> ProblemError:
    if error.after > error.last:
        resume = error.last
        detail = (
            f"Position {error.after} is ahead of the log, which ends at {error.last}: it is of another log."
        )
    else:
        resume = error.first - 1
        detail = f"Changes {error.after + 1} to {resume} are no longer retained."
    return ProblemError(
        POSITION_EXPIRED,
        detail,
        members={
            "first_position": error.first,
            "latest_position": error.last,
            "resume": f"/order-changes?after={resume}",
        },
    )


def _summaries_behind(error: fee_summaries.SummariesBehindError) -> ProblemError:
    place = "has no position yet" if error.asked_position is None else f"is position {error.asked_position}"
    asked = (
        error.asked if error.asked == f"position {error.asked_position}" else f"{error.asked}, which {place},"
    )
    return ProblemError(
        SUMMARIES_BEHIND,
        f"The figures are exact for position {error.position}; {asked} is not in them yet.",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        members={
            "as_of": {"position": error.position, "time": utc_text(error.time)},
            "asked": {"position": error.asked_position},
        },
    )


_PROBLEM_OF: dict[type[Exception], Callable[[Any], ProblemError]] = {
    ProblemError: lambda error: error,
    HTTPException: _of_framework,
    DatabaseUnavailableError: _unavailable,
    OutcomeUnknownError: _outcome_unknown,
    LockTimeoutError: _held_up,
    orders.ContentionError: _unavailable,
    orders.OrdersTooCloseError: _too_close,
    orders.OrderNotFoundError: lambda error: ProblemError(NOT_FOUND, f"There is no order {error.order_id}."),
    orders.OrderIdTakenError: lambda error: ProblemError(
        ORDER_ID_TAKEN, f"Id {error.order_id} is, or was, the id of another order."
    ),
    orders.ServicesNotOrderableError: lambda error: invalid(
        *(Fault(reason, pointer=pointer) for pointer, reason in error.faults)
    ),
    orders.BatchRefusedError: _batch_refused,
    PositionNotInLogError: _not_in_log,
    orders.VersionMismatchError: lambda error: ProblemError(
        VERSION_MISMATCH,
        f"Order {error.order_id} is at version {error.version}.",
        headers={"ETag": f'"{error.version}"'},
    ),
    orders.IdempotencyKeyReusedError: lambda error: ProblemError(
        IDEMPOTENCY_KEY_REUSED, f"The key {error.key} was used for other content within 24 hours."
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
    fee_summaries.ReportExpiredError: lambda error: ProblemError(
        REPORT_EXPIRED,
        f"Position {error.position} {error.reason}.",
        members={"latest_position": error.latest},
    ),
    fee_summaries.SummariesBehindError: _summaries_behind,
    fee_summaries.OrderVersionNotFoundError: lambda error: ProblemError(
        NOT_FOUND,
        f"There is no version {error.version} of order {error.order_id}."
        if error.is_known
        else f"There is no order {error.order_id}, and no change of it is retained: it never was, or it was "
        "deleted long ago and is in no figures.",
    ),
    webhooks.WebhookNotFoundError: lambda error: ProblemError(
        NOT_FOUND, f"There is no webhook {error.webhook_id}."
    ),
    webhooks.DeliveryNotFoundError: lambda error: ProblemError(
        NOT_FOUND, f"The webhook has no delivery {error.delivery_id}."
    ),
    webhooks.WebhookDisabledError: lambda error: ProblemError(
        WEBHOOK_DISABLED, f"Webhook {error.webhook_id} is disabled ({error.reason})."
    ),
    webhooks.TooMuchToReplayError: lambda error: invalid(
        Fault(f"must be {error.first} or more: what follows is too much for one replay", pointer="#/after")
    ),
    Exception: _unforeseen,
}
"""How each error is answered. What is not known here is a 500, and the log has the rest."""


def problem_of(error: Exception) -> ProblemError:
    """Say how an error is answered."""
    nearest = next(kind for kind in type(error).__mro__ if kind in _PROBLEM_OF)
    return _PROBLEM_OF[nearest](error)


_encode = msgspec.json.Encoder().encode


def _path(request: Request[Any, Any, Any]) -> str:
    # As it was sent, still percent-encoded: decoded, it might be no URI reference.
    raw: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    return raw.partition(b"?")[0].decode("ascii", "replace")


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer any error with problem details; Litestar's handler for every exception."""
    problem = problem_of(error)
    body: dict[str, Any] = {
        "type": problem.type.uri,
        "title": problem.type.title,
        "status": problem.type.status,
        "detail": problem.detail,
        "instance": _path(request),
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
