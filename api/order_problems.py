"""The part of the problem map for orders, calendars and services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.calendars import errors as calendars
from api.http.durations import duration_in_words, duration_text
from api.http.problem_types import NOT_FOUND
from api.http.problems import Fault, ProblemError, invalid
from api.http.times import utc_text
from api.orders import errors as orders
from api.orders.fields import MOST_METADATA
from api.problem_types import (
    CALENDAR_IN_USE,
    ORDER_CANCELLED,
    ORDER_ID_TAKEN,
    ORDERS_TOO_CLOSE,
    REFERENCE_TAKEN,
    SERVICE_ID_TAKEN,
    SERVICE_NAME_TAKEN,
    SPACING_TOO_LARGE,
    VERSION_MISMATCH,
)
from api.services import errors as services

if TYPE_CHECKING:
    from collections.abc import Callable


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


ORDER_PROBLEMS: dict[type[Exception], Callable[[Any], ProblemError]] = {
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
    orders.VersionMismatchError: _version_mismatch,
    orders.CalendarNameTakenError: lambda error: invalid(
        *(
            Fault(namesake.reason, pointer=pointer)
            for pointer, namesake in zip(error.pointers, error.namesakes, strict=False)
        )
    ),
    orders.CalendarNotInCellError: lambda error: invalid(
        *(
            Fault(
                f"cell {error.cell} has no calendar {' or '.join(error.names)}; "
                "if it is to have it, PUT it (/calendars/…) there first",
                pointer=pointer,
            )
            for pointer in error.pointers
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
}
"""All but those of a batch, which contain others."""
