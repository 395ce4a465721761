"""The problem map: the only place where an error of the domain gets a status code.

Commands and queries raise errors that name what happened and carry data; this module translates each
into a problem. What a caller sees never contains a stack trace, SQL or any other internals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from api.changes import errors as changes
from api.fee_summaries import errors as fee_summaries
from api.http import errors as http
from api.http.json_text import encode
from api.http.problem_types import (
    BODY_TOO_LARGE,
    FORBIDDEN,
    IDEMPOTENCY_KEY_REUSED,
    INTERNAL_ERROR,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    REQUEST_TIMEOUT,
)
from api.http.problems import Fault, ProblemError, invalid, malformed
from api.http.request_bodies import LEAST_BYTES_PER_SECOND
from api.http.responses import BytesResponse
from api.http.times import utc_text
from api.keys import errors as keys
from api.order_problems import ORDER_PROBLEMS
from api.orders import errors as orders
from api.problem_types import (
    BATCH_REFUSED,
    KEY_NAME_TAKEN,
    POSITION_EXPIRED,
    REPORT_EXPIRED,
    SUMMARIES_BEHIND,
    TOO_MANY_KEYS,
    TOO_MANY_WEBHOOKS,
    WEBHOOK_DISABLED,
)
from api.unavailability import RETRY_SOON, UNAVAILABILITY
from api.webhooks import errors as webhooks
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)


def _framework_error(error: HTTPException) -> ProblemError:
    headers = dict(error.headers or {})
    match error.status_code:
        case 404:
            return ProblemError(NOT_FOUND, "No route has this path.", headers=headers)
        case 405:
            detail = "This path does not support the method; see Allow."
            return ProblemError(METHOD_NOT_ALLOWED, detail, headers=headers)
        case 413:
            # The server closes a connection whose body it has not read. Without this header, the caller sends
            # its next request on that connection and gets no answer (1 in 8 did).
            headers["Connection"] = "close"
            return ProblemError(
                BODY_TOO_LARGE, "The body is larger than this operation accepts.", headers=headers
            )
        case status if 400 <= status < 500:  # a class of status codes
            return malformed(Fault("The request can't be read."))
        case _:
            return _internal_error(error)


def _internal_error(error: Exception) -> ProblemError:
    log.error("internal_error", exc_info=error)
    return ProblemError(INTERNAL_ERROR, "The log has the details, under this request_id.")


def _batch_refused(error: orders.BatchRefusedError) -> ProblemError:
    items = []
    for index, refusal in error.refusals:
        problem = problem_of(refusal)
        faults = [fault.within(f"/orders/{index}") for fault in problem.faults]
        if faults:
            problem = invalid(*faults)
        errors = {"errors": [fault.member for fault in faults]} if faults else {}
        items.append({"index": index, **_described(problem), **problem.members, **errors})
    return ProblemError(
        BATCH_REFUSED,
        f"{len(items)} of the batch's orders can't be {error.participle}, so none was: see items.",
        members={"items": items},
    )


def _position_not_in_log(error: changes.PositionNotInLogError) -> ProblemError:
    if error.after > error.last:
        resume = error.last
        detail = (
            f"Position {error.after} is ahead of the log, which ends at {error.last}: it is from another log."
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


def _body_timeout(_error: http.BodyTimeoutError) -> ProblemError:
    # The rest of the body is never read, so the connection can't be used again.
    return ProblemError(
        REQUEST_TIMEOUT,
        f"The body did not arrive in time: it may take {settings().body_timeout:g} s, and a third of that at "
        f"less than {LEAST_BYTES_PER_SECOND:,} bytes a second.",
        headers={"Connection": "close"},
    )


def _summaries_behind(error: fee_summaries.SummariesBehindError) -> ProblemError:
    if error.requested == f"position {error.requested_position}":
        requested = error.requested
    elif error.requested_position is None:
        requested = f"{error.requested}, which has no position yet,"
    else:
        requested = f"{error.requested}, which is position {error.requested_position},"
    return ProblemError(
        SUMMARIES_BEHIND,
        f"The figures are exact for position {error.position}; {requested} is not included yet.",
        headers=RETRY_SOON,
        members={
            "as_of": {"position": error.position, "time": utc_text(error.time)},
            "asked": {"position": error.requested_position},
        },
    )


def _report_too_large(error: fee_summaries.ReportTooLargeError) -> ProblemError:
    return malformed(
        Fault(
            f"zero would make {error.items:,} items, more than {error.limit:,}; ask for fewer days, longer "
            "periods, or specific services or calendars",
            parameter="fill",
        )
    )


def _order_version_not_found(error: fee_summaries.OrderVersionNotFoundError) -> ProblemError:
    if error.is_known:
        return ProblemError(NOT_FOUND, f"Order {error.order_id} has no version {error.version}.")
    return ProblemError(
        NOT_FOUND,
        f"There is no order {error.order_id}, and no change of it is retained. It never existed, or it was "
        "deleted long ago and is in no figures.",
    )


_PROBLEM_OF: dict[type[Exception], Callable[[Any], ProblemError]] = {
    **UNAVAILABILITY,
    ProblemError: lambda error: error,
    HTTPException: _framework_error,
    http.BodyTimeoutError: _body_timeout,
    http.IdempotencyKeyReusedError: lambda error: ProblemError(
        IDEMPOTENCY_KEY_REUSED, f"The key {error.key} was used for other content within 24 hours."
    ),
    **ORDER_PROBLEMS,
    orders.BatchRefusedError: _batch_refused,
    changes.PositionNotInLogError: _position_not_in_log,
    fee_summaries.ReportExpiredError: lambda error: ProblemError(
        REPORT_EXPIRED,
        f"Position {error.position} {error.reason}.",
        members={"latest_position": error.latest},
    ),
    fee_summaries.ReportTooLargeError: _report_too_large,
    fee_summaries.SummariesBehindError: _summaries_behind,
    fee_summaries.OrderVersionNotFoundError: _order_version_not_found,
    webhooks.WebhookNotFoundError: lambda error: ProblemError(
        NOT_FOUND, f"There is no webhook {error.webhook_id}."
    ),
    webhooks.DeliveryNotFoundError: lambda error: ProblemError(
        NOT_FOUND, f"The webhook has no delivery {error.delivery_id}."
    ),
    webhooks.WebhookDisabledError: lambda error: ProblemError(
        WEBHOOK_DISABLED, f"Webhook {error.webhook_id} is disabled ({error.reason})."
    ),
    webhooks.TooManyWebhooksError: lambda error: ProblemError(
        TOO_MANY_WEBHOOKS, f"There are {error.most} webhooks already. Delete one, or change one."
    ),
    webhooks.TooMuchToReplayError: lambda error: invalid(
        Fault(f"must be at least {error.first}: one replay can't cover more changes", pointer="#/after")
    ),
    keys.KeyNotFoundError: lambda error: ProblemError(NOT_FOUND, f"There is no key {error.key_id}."),
    keys.KeyNameTakenError: lambda error: ProblemError(
        KEY_NAME_TAKEN, f"Another key is called {error.name}."
    ),
    keys.TooManyKeysError: lambda error: ProblemError(
        TOO_MANY_KEYS, f"There are {error.most:,} keys already. Revoke some."
    ),
    keys.ScopesNotHeldError: lambda error: ProblemError(
        FORBIDDEN,
        f"The key of {error.caller} lacks the scope{'' if len(error.scopes) == 1 else 's'} "
        f"{', '.join(error.scopes)}, so it can't give {'it' if len(error.scopes) == 1 else 'them'} to a key.",
    ),
    keys.NoKeysAskedForError: lambda _error: ProblemError(
        FORBIDDEN,
        "No keys are asked for here yet. The first one is made by the operator: make key NAME=… SCOPES=…",
    ),
    Exception: _internal_error,
}
"""How each error is answered. Any other is a 500, and the log has the details."""


def problem_of(error: Exception) -> ProblemError:
    """Translate an error into a problem."""
    nearest = next(kind for kind in type(error).__mro__ if kind in _PROBLEM_OF)
    return _PROBLEM_OF[nearest](error)


def _described(problem: ProblemError) -> dict[str, object]:
    kind = problem.type
    return {"type": kind.uri, "title": kind.title, "status": kind.status, "detail": problem.detail}


def _path(request: Request[Any, Any, Any]) -> str:
    # As it was sent, still percent-encoded: decoded, it might not be a URI reference.
    raw: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    return raw.partition(b"?")[0].decode("ascii", "replace")


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer any error with problem details; Litestar's handler for every exception."""
    problem = problem_of(error)
    body: dict[str, Any] = {
        **_described(problem),
        "instance": _path(request),
        "request_id": request.scope.get("request_id"),
        **problem.members,
    }
    if problem.faults:
        body["errors"] = [fault.member for fault in problem.faults]
    return BytesResponse(
        encode(body),
        status_code=problem.type.status,
        media_type="application/problem+json",
        headers=dict(problem.headers),
    )
