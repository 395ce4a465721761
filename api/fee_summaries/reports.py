"""Reports: orders and fees per period, summed by PostgreSQL at one position, in one statement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from api.fee_summaries.errors import ReportTooLargeError
from api.fee_summaries.positions import STANDING
from api.http.times import EARLIEST, LATEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.database.rows import Row

EARLIEST_DAY = EARLIEST.date() - timedelta(days=1)
"""West of Greenwich the earliest order may fall on the last day of 1969 …"""

END_OF_DAYS = date(LATEST.year + 1, 1, 2)
"""… and in the east the latest on the first of 2200."""

PERIODS = {"day": "1 day", "week": "1 week", "month": "1 month", "quarter": "3 months", "year": "1 year"}

MOST_FILLED = 200_000
"""Items that a report filled with zeros may have: it is written out in full before a page is cut from it."""

# A row of fee_summary says how many orders bring a share; what is behind the asked position is taken back:
# minus what the order was made by a change, plus what it had been. Summed per share first, so that least and
# greatest are of shares that are left. Service 0 stands for whole orders: counting an order once for each of
# its services would count it too often, so the totals are made of those where they can be.
#
# The row of totals comes always, and with it what the figures are exact for.
_REPORT = """
WITH {standing}, counted AS (
    SELECT f.day, f.calendar_id, f.service_id, f.share, f.orders::bigint AS orders
    FROM fee_summary AS f
    WHERE f.generation = (SELECT generation FROM standing) AND f.day >= $3 AND f.day < $4 AND {services}
        AND ($5::text[] IS NULL OR f.calendar_id = ANY (ARRAY(SELECT id FROM calendar WHERE name = ANY ($5))))
    UNION ALL
    SELECT f.day, c.id, f.service_id, f.share, state.sign
    FROM standing
    JOIN order_change AS change
        ON change.position > standing.position AND change.position <= standing.applied
    CROSS JOIN LATERAL (VALUES (change.order_state, -1), (change.previous_state, 1)) AS state (json, sign)
    CROSS JOIN LATERAL fee_effects(state.json, standing.time_zone) AS f
    JOIN calendar AS c ON c.name = f.calendar
    WHERE state.json IS NOT NULL AND f.day >= $3 AND f.day < $4 AND {services}
        AND ($5::text[] IS NULL OR f.calendar = ANY ($5))
), part AS (
    SELECT
        date_trunc($2, day)::date AS period, {service} AS service_id, {calendar} AS calendar_id,
        share, sum(orders) AS orders
    FROM counted WHERE {items}
    GROUP BY 1, 2, 3, 4 HAVING sum(orders) <> 0
), summed AS (
    SELECT
        period, service_id, calendar_id, sum(orders)::bigint AS orders, sum(orders * share) AS totalfee,
        min(share) AS minfee, max(share) AS maxfee
    FROM part GROUP BY 1, 2, 3
), total AS (
    SELECT
        sum(orders)::bigint AS orders, sum(orders * share) AS totalfee,
        min(share) AS minfee, max(share) AS maxfee
    FROM (
        SELECT share, sum(orders) AS orders FROM counted WHERE {totals} GROUP BY 1 HAVING sum(orders) <> 0
    ) AS whole
){filling}, item AS (
    SELECT
        s.period, s.service_id, s.calendar_id, s.orders, s.totalfee, s.minfee, s.maxfee,
        service.name AS service, coalesce(calendar.name, '') COLLATE "C" AS calendar
    FROM {source} AS s
    LEFT JOIN service ON service.id = s.service_id LEFT JOIN calendar ON calendar.id = s.calendar_id
), page AS (
    SELECT * FROM item
    WHERE $6::date IS NULL OR (period, service_id, calendar) > ($6, $7::bigint, $8::text COLLATE "C")
    ORDER BY period, service_id, calendar LIMIT $9
)
SELECT
    standing.*, NULL::date AS period, NULL::bigint AS service_id, NULL AS service, NULL AS calendar,
    total.orders, total.totalfee, total.minfee, total.maxfee,
    (
        SELECT count(*) FROM order_change AS change
        WHERE change.position > standing.position AND change.position <= standing.applied
    ) AS reversed,
    {written_out} AS written_out
FROM standing, total
UNION ALL
SELECT
    standing.*, page.period, page.service_id, page.service, page.calendar,
    page.orders, page.totalfee, page.minfee, page.maxfee, NULL, NULL
FROM standing, page
ORDER BY period NULLS FIRST, service_id, calendar
"""

# Every period for every service and calendar that the report has anything of, or was asked for by name.
_FILLING = """, series AS (
    SELECT DISTINCT service_id, calendar_id FROM summed
    UNION
    SELECT service.id, calendar.id
    FROM (
        SELECT 0::bigint AS id WHERE $10::bigint[] IS NULL
        UNION ALL SELECT id FROM service WHERE id = ANY ($10)
    ) AS service, (
        SELECT 0 AS id WHERE $11::text[] IS NULL
        UNION ALL SELECT id FROM calendar WHERE name = ANY ($11)
    ) AS calendar
    WHERE {named}
), period AS (
    SELECT at::date AS period
    FROM generate_series(
        {start}, $4::timestamp - interval '1 day', '{step}'
    ) AS at
    WHERE at <= {latest}
), filled AS (
    SELECT
        period.period, series.service_id, series.calendar_id, coalesce(summed.orders, 0) AS orders,
        coalesce(summed.totalfee, 0.00) AS totalfee, summed.minfee, summed.maxfee
    FROM period CROSS JOIN series
    LEFT JOIN summed ON summed.period = period.period
        AND summed.service_id = series.service_id AND summed.calendar_id = series.calendar_id
    WHERE (SELECT count(*) FROM series) * (SELECT count(*) FROM period) <= {most}
)"""
_WRITTEN_OUT = "(SELECT count(*) FROM series) * (SELECT count(*) FROM period)"


@dataclass(frozen=True)
class ReportQuery:
    """Which report: of which days, how divided, and of which services and calendars (None: of all)."""

    first: date | None = None
    end: date | None = None
    group_by: str = "day"
    by: frozenset[str] = frozenset()
    services: Sequence[int] | None = None
    calendars: Sequence[str] | None = None
    fill: bool = False

    @property
    def tells_services_apart(self) -> bool:
        """Whether each row is of one service, or of all."""
        return "service" in self.by or self.services is None or len(self.services) == 1

    def statement(
        self, position: int | None, after: tuple[date, int, str] | None, limit: int | None
    ) -> tuple[str, list[Any]]:
        """Write the statement for the items behind a place, with its arguments."""
        arguments: list[Any] = [
            position,
            self.group_by,
            self.first or EARLIEST_DAY,
            self.end or END_OF_DAYS,
            self.calendars,
            *(after or (None, None, None)),
            limit,
        ]
        by_service, by_calendar = "service" in self.by, "calendar" in self.by
        filling = ""
        if self.fill:
            arguments += [
                self.services if by_service else None,
                self.calendars if by_calendar else None,
            ]
            named = (not by_service or self.services is not None) and (
                not by_calendar or self.calendars is not None
            )
            filling = _FILLING.format(
                named=named,
                # Where no end is given, the report goes from its first row to its last.
                start="date_trunc($2, $3::timestamp)" if self.first else "(SELECT min(period) FROM summed)",
                latest="$4::timestamp" if self.end else "(SELECT max(period) FROM summed)",
                step=PERIODS[self.group_by],
                most=MOST_FILLED,
            )
        if self.services is not None:
            services = f"f.service_id = ANY (${len(arguments) + 1}::bigint[])"
            arguments.append(self.services)
        else:
            services = "true" if by_service else "f.service_id = 0"
        return _REPORT.format(
            standing=STANDING,
            services=services,
            items="service_id <> 0" if by_service else "true",
            totals="service_id = 0" if self.services is None else "true",
            service="service_id" if by_service else "0::bigint",
            calendar="calendar_id" if by_calendar else "0",
            filling=filling,
            source="filled" if self.fill else "summed",
            written_out=_WRITTEN_OUT if self.fill else "NULL::bigint",
        ), arguments

    def refuse_too_large(self, total: Row) -> None:
        """Check that a report filled with zeros is not too large.

        Raises:
            ReportTooLargeError: it has too many items.

        """
        if self.fill and total["written_out"] > MOST_FILLED:
            raise ReportTooLargeError(total["written_out"], MOST_FILLED)


def average(totalfee: Decimal, orders: int) -> Decimal:
    """Divide a sum by its orders, rounded to the cent, a half to the even cent. Nothing else is rounded."""
    cents, rest = divmod(int(totalfee * 100), orders)
    if 2 * rest > orders or (2 * rest == orders and cents % 2):
        cents += 1
    return Decimal(cents).scaleb(-2)


def figures(found: Row, *, apart: bool = True) -> dict[str, Any]:
    """Give a row's figures as answers show them; without orders there is nothing to average or compare.

    Of several services taken together (not ``apart``) only the sum is known: an order that has two of them
    would be counted twice.
    """
    orders, totalfee = found["orders"] or 0, found["totalfee"] or Decimal("0.00")
    return {
        "orders": orders if apart else None,
        "totalfee": totalfee,
        "averagefee": average(totalfee, orders) if orders and apart else None,
        "minfee": found["minfee"] if apart else None,
        "maxfee": found["maxfee"] if apart else None,
    }


def item_figures(query: ReportQuery, item: Row) -> dict[str, Any]:
    """Give the figures of one row."""
    return figures(item, apart=query.tells_services_apart)


def total_figures(query: ReportQuery, total: Row) -> dict[str, Any]:
    """Give the figures of the whole report, on every page of it the same."""
    return figures(total, apart=query.services is None or len(query.services) == 1)
