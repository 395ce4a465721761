"""Fee summaries over HTTP: what the worker has summed, with the position that it is exact for."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Any, Literal

import msgspec
from litestar import HttpMethod, Response, route

from api.fields import read_id
from api.pages import DEFAULT_LIMIT, Page, answer_page, decode_cursor, filters_of
from api.problem_types import INVALID_CURSOR
from api.problems import Fault, ProblemError, malformed
from api.requests import AnyRequest, read_limit, read_query
from api.times import EARLIEST, LATEST, utc_text
from shared.database import Row, rows

_encode = msgspec.json.Encoder(decimal_format="number").encode
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
PERIODS = ("day", "week", "month", "year")

# Rows and cursor are read by one statement, so from one snapshot: what is summed is exact for as_of. The
# cursor's row comes even when nothing matches. Service 0 stands for whole orders: counting an order once
# for each of its services would count it too often.
_SUMMARIES = """
WITH summed AS (
    SELECT
        date_trunc($1, day)::date AS period,
        {service} AS service_id, {calendar} AS calendar_id,
        sum(orders)::bigint AS orders, sum(orders * share) AS totalfee
    FROM fee_summary
    WHERE day >= $2 AND day < $3 AND {counted}
    GROUP BY 1, 2, 3
), page AS (
    SELECT * FROM summed WHERE (period, service_id, calendar_id) > ($4, $5, $6::bigint)
    ORDER BY period, service_id, calendar_id LIMIT $7
)
SELECT
    cursor.position, cursor.moved_at,
    page.period, page.service_id, page.calendar_id, page.orders, page.totalfee,
    (SELECT name FROM service WHERE id = page.service_id) AS service,
    (SELECT name FROM calendar WHERE id = page.calendar_id) AS calendar
FROM consumer_cursor AS cursor LEFT JOIN page ON true
WHERE cursor.consumer = 'fee_summaries'
ORDER BY page.period, page.service_id, page.calendar_id
"""

By = Literal["service", "calendar", "none"]
_STATEMENTS: dict[str, str] = {
    "service": _SUMMARIES.format(service="service_id", calendar="0", counted="service_id <> 0"),
    "calendar": _SUMMARIES.format(service="0::bigint", calendar="calendar_id", counted="service_id = 0"),
    "none": _SUMMARIES.format(service="0::bigint", calendar="0", counted="service_id = 0"),
}


def read_date(value: str) -> date:
    """Read a date of 1970 to 2199, or the day after.

    Raises:
        ValueError: it is none; the text says what would be right.

    """
    try:
        found = date.fromisoformat(value) if _DATE.fullmatch(value) else None
    except ValueError:
        found = None
    if found is None or not EARLIEST.date() <= found <= LATEST.date() + timedelta(days=1):
        message = "must be a date from 1970-01-01 to 2200-01-01, such as 2022-11-01"
        raise ValueError(message)
    return found


def one_of(*words: str) -> Any:
    """Make a reader of one of some words."""

    def read(value: str) -> str:
        if value not in words:
            message = f"must be {', '.join(words[:-1])} or {words[-1]}"
            raise ValueError(message)
        return value

    return read


def _item(found: Row) -> str:
    service_id = found["service_id"]
    return _encode(
        {
            "period": found["period"].isoformat(),
            "service": {"id": str(service_id), "name": found["service"]} if service_id else None,
            "calendar": found["calendar"],
            "orders": found["orders"],
            "totalfee": found["totalfee"],
        }
    ).decode()


def _place(cursor: list[Any]) -> tuple[date, int, int]:
    period, service_id, calendar_id = cursor
    # 0 stands for all services, or all calendars.
    return (
        date.fromisoformat(period),
        read_id(service_id) if service_id != 0 else 0,
        read_id(calendar_id) if calendar_id != 0 else 0,
    )


@route("/fee-summaries", http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def list_fee_summaries(request: AnyRequest) -> Response[bytes]:
    """List orders and fees per period, in all or by service or calendar."""
    query = read_query(
        request,
        {
            "from": read_date,
            "to": read_date,
            "group_by": one_of(*PERIODS),
            "by": one_of("service", "calendar", "none"),
            "limit": read_limit,
            "cursor": str,
        },
    )
    # West of Greenwich the earliest order may fall on the last day of 1969, in the east the latest on the
    # first of 2200.
    first = query.get("from", EARLIEST.date() - timedelta(days=1))
    end = query.get("to", date(LATEST.year + 1, 1, 2))
    if first > end:
        raise malformed(Fault("must not be later than to", parameter="from"))
    place = (date.min, -1, -1)
    if "cursor" in query:
        try:
            place = _place(decode_cursor(query["cursor"], filters_of(request.query_params)))
        except (ValueError, TypeError):
            raise ProblemError(INVALID_CURSOR, "The cursor was not made by this service.") from None
    limit = query.get("limit", DEFAULT_LIMIT)
    found = await rows(
        _STATEMENTS[query.get("by", "none")], query.get("group_by", "day"), first, end, *place, limit + 1
    )
    as_of = {"position": found[0]["position"], "time": utc_text(found[0]["moved_at"])}
    items = [one for one in found if one["period"] is not None]
    shown = items[:limit]
    following = None
    if len(items) > limit:
        last = shown[-1]
        following = [last["period"].isoformat(), last["service_id"], last["calendar_id"]]
    page = Page([_item(one) for one in shown], following)
    return answer_page(request, page, head=f'"as_of":{_encode(as_of).decode()},')


ROUTES = [list_fee_summaries]
