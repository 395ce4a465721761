"""The parameters of fee summaries: how each is read, and which report they request."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, Any

from api.fee_summaries import positions
from api.fee_summaries.reports import PERIODS, ReportQuery
from api.http import fields
from api.http.parameters import PAGING, Query, Readers, read_bom, read_seconds
from api.http.pictures import read_format
from api.http.problems import Fault, malformed
from api.http.read_after import read_order_version
from api.http.times import EARLIEST, LATEST
from api.orders.fields import read_calendar

if TYPE_CHECKING:
    from collections.abc import Mapping

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
LAST_END = date(LATEST.year + 1, 1, 1)
"""The latest end of a range, itself not included."""


def read_date(value: str) -> date:
    """Read a date from 1970-01-01 to ``LAST_END``.

    Raises:
        ValueError: it is not one; the message says what is valid.

    """
    try:
        day = date.fromisoformat(value) if _DATE.fullmatch(value) else None
    except ValueError:
        day = None
    if day is None or not EARLIEST.date() <= day <= LAST_END:
        raise ValueError("must be a date from 1970-01-01 to 2200-01-01, such as 2022-11-01")
    return day


SCOPE: Readers = {
    "from": read_date,
    "to": read_date,
    "service": fields.read_id,
    "calendar": read_calendar,
    "position": fields.read_position,
    "min_position": fields.read_position,
    "after_version": read_order_version,
    "wait": read_seconds(positions.LONGEST_WAIT_SECONDS),
}
_REPORT: Readers = {
    **SCOPE,
    "group_by": fields.one_of(*PERIODS),
    "by": fields.one_of("service", "calendar", "none"),
    "fill": fields.one_of("zero"),
}
_REPEATABLE = ("by", "service", "calendar")
REPORT = Query({**_REPORT, "format": read_format, **PAGING}, repeatable=_REPEATABLE)
EXPORT = Query({**_REPORT, "bom": read_bom}, repeatable=_REPEATABLE)
COUNTED_ORDERS = Query({**SCOPE, **PAGING}, repeatable=("service", "calendar"))


def read_days(query: Mapping[str, Any]) -> tuple[date | None, date | None]:
    """Read the range of days.

    Raises:
        ProblemError: 400, it ends before it begins.

    """
    first, end = query.get("from"), query.get("to")
    if first and end and first > end:
        raise malformed(Fault("must not be later than to", parameter="from"))
    return first, end


def read_report_query(query: Mapping[str, Any]) -> ReportQuery:
    """Read which report is requested.

    Raises:
        ProblemError: 400, its days end before they begin.

    """
    first, end = read_days(query)
    return ReportQuery(
        first,
        end,
        query.get("group_by", "day"),
        frozenset(query.get("by", ())) - {"none"},
        query.get("service"),
        query.get("calendar"),
        # A range without a day has no period to fill.
        fill="fill" in query and (first is None or first != end),
    )
