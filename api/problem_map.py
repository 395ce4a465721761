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

from api.calendars import errors as calendars
from api.changes import errors as changes
from api.fee_summaries import errors as fee_summaries
from api.http import errors as http
from api.http.durations import duration_in_words, duration_text
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
from api.orders import errors as orders
from api.orders.fields import MOST_METADATA
from api.problem_types import (
    BATCH_REFUSED,
    CALENDAR_IN_USE,
    KEY_NAME_TAKEN,
    ORDER_CANCELLED,
    ORDER_ID_TAKEN,
    ORDERS_TOO_CLOSE,
    POSITION_EXPIRED,
    REFERENCE_TAKEN,
    REPORT_EXPIRED,
    SERVICE_ID_TAKEN,
    SERVICE_NAME_TAKEN,
    SPACING_TOO_LARGE,
    SUMMARIES_BEHIND,
    TOO_MANY_KEYS,
    TOO_MANY_WEBHOOKS,
    VERSION_MISMATCH,
    WEBHOOK_DISABLED,
)
from api.services import errors as services
from api.unavailability import RETRY_SOON, UNAVAILABILITY
from api.webhooks import errors as webhooks
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)


def _conflict(conflict: orders.Conflict) -> dict[str, object]:
    place = {"id": str(conflict.id)} if conflict.index is None else {"index": conflict.index}
    return {**place, "datetime": utc_text(conflict.datetime)}


def _conflict_in_words(conflict: orders.Conflict) -> str:
    name = f"order {conflict.id}" if conflict.index is None else f"the batch's order {conflict.index}"
    return f"{name} at {utc_text(conflict.datetime)}"


def _orders_too_close(error: orders.OrdersTooCloseError) -> ProblemError:
    free = [utc_text(at) for at in (error.nearest_before, error.nearest_after) if at is not None]
    return ProblemError(
        ORDERS_TOO_CLOSE,
        f"{utc_text(error.requested)} on calendar {error.calendar} is less than "
        f"{duration_in_words(error.spacing)} from "
        f"{', '.join(map(_conflict_in_words, error.conflicts[:3]))}"
        f"{', …' if len(error.conflicts) > 3 else ''}. "
        + (f"Nearest free: {' or '.join(free)}." if free else "No datetime is free on this calendar."),
        members={
            "conflicts": [_conflict(conflict) for conflict in error.conflicts],
            "nearest": {
                "before": utc_text(error.nearest_before) if error.nearest_before else None,
                "after": utc_text(error.nearest_after) if error.nearest_after else None,
            },
            "spacing": duration_text(error.spacing),
        },
    )


def _spacing_too_large(error: calendars.SpacingTooLargeError) -> ProblemError:
    first = error.pairs[0]
    return ProblemError(
        SPACING_TOO_LARGE,
        f"On calendar {error.calendar}, order {first.earlier_id} at {utc_text(first.earlier_datetime)} and "
        f"order {first.later_id} at {utc_text(first.later_datetime)} are less than "
        f"{duration_in_words(error.spacing)} apart"
        f"{', and so are others: see pairs' if error.pairs[1:] else ''}. "
        f"Its orders allow a spacing of {duration_text(error.largest)} at most.",
        members={
            "spacing": duration_text(error.spacing),
            "largest": duration_text(error.largest),
            "pairs": [
                {
                    "earlier": {"id": str(pair.earlier_id), "datetime": utc_text(pair.earlier_datetime)},
                    "later": {"id": str(pair.later_id), "datetime": utc_text(pair.later_datetime)},
                }
                for pair in error.pairs
            ],
        },
    )


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


def _version_mismatch(error: orders.VersionMismatchError) -> ProblemError:
    if error.weak_tag:
        detail = (
            f"{error.weak_tag} is a weak tag, which never matches in If-Match: "
            f"send {error.tag}, the order's ETag."
        )
    elif error.stated:
        detail = f"Order {error.order_id} is at version {error.version}, not {error.stated} as the body says."
    else:
        detail = f"Order {error.order_id} is at version {error.version}."
    return ProblemError(VERSION_MISMATCH, detail, headers={"ETag": error.tag})


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
    orders.OrdersTooCloseError: _orders_too_close,
    orders.OrderNotFoundError: lambda error: ProblemError(NOT_FOUND, f"There is no order {error.order_id}."),
    orders.OrderIdTakenError: lambda error: ProblemError(
        ORDER_ID_TAKEN, f"Id {error.order_id} is, or was, the id of another order."
    ),
    orders.ReferenceTakenError: lambda error: ProblemError(
        REFERENCE_TAKEN,
        f"Order {error.order_id} has the reference {error.reference!r}.",
        members={"order_id": str(error.order_id)},
    ),
    orders.OrderCancelledError: lambda error: ProblemError(
        ORDER_CANCELLED,
        f"Order {error.order_id} is cancelled: only its reference and metadata can be changed. Reinstate it "
        f"first: POST /orders/{error.order_id}/reinstate.",
    ),
    orders.StatusNotSettableError: lambda error: invalid(
        Fault(
            f"must be {error.status}, as the order's, or left out; "
            "POST to the order's /cancel or /reinstate changes it",
            pointer="#/status",
        )
    ),
    orders.TooMuchMetadataError: lambda error: invalid(
        Fault(f"must have at most {MOST_METADATA} members; merged, it has {error.keys}", pointer="#/metadata")
    ),
    orders.ServicesNotOrderableError: lambda error: invalid(
        *(Fault(reason, pointer=pointer) for pointer, reason in error.faults)
    ),
    orders.BatchRefusedError: _batch_refused,
    orders.VersionMismatchError: _version_mismatch,
    orders.CalendarNameTakenError: lambda error: invalid(
        *(
            Fault(namesake.reason, pointer=pointer)
            for pointer, namesake in zip(error.pointers, error.namesakes, strict=False)
        )
    ),
    calendars.CalendarNotFoundError: lambda error: ProblemError(
        NOT_FOUND, f"There is no calendar {error.name}."
    ),
    calendars.CalendarInUseError: lambda error: ProblemError(
        CALENDAR_IN_USE,
        f"Calendar {error.name} has {error.orders:,} order{'' if error.orders == 1 else 's'}.",
        members={"orders": error.orders},
    ),
    calendars.SpacingTooLargeError: _spacing_too_large,
    changes.PositionNotInLogError: _position_not_in_log,
    services.ServiceNotFoundError: lambda error: ProblemError(
        NOT_FOUND, f"There is no service {error.service_id}."
    ),
    services.ServiceIdTakenError: lambda error: ProblemError(
        SERVICE_ID_TAKEN, f"Id {error.service_id} is the id of another service."
    ),
    services.ServiceNameTakenError: lambda error: ProblemError(
        SERVICE_NAME_TAKEN,
        f"Another service is called {error.name!r}.",
    ),
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
