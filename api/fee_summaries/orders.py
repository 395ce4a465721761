"""The orders behind fee summaries: which they were at one position, and what each of them brings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from api.fee_summaries.positions import STANDING
from api.http.json_text import encode_text
from api.http.times import utc_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.database.rows import Row

# Orders as they were at a position: those that no later change touched are as they are, the others as their
# first later change found them. A change that has no position yet is a later one. Local midnight may come
# twice or never on a day that clocks change, so the index finds the orders of a day too many on each side,
# and the day itself decides.
_ORDERS = """
WITH {standing}, later AS (
    SELECT DISTINCT ON (order_id) order_id, previous_state
    FROM (
        SELECT change.order_id, change.order_version, change.previous_state
        FROM standing JOIN order_change AS change ON change.position > standing.position
        UNION ALL
        SELECT order_id, order_version, previous_state FROM order_change WHERE position IS NULL
    ) AS change
    ORDER BY order_id, order_version
), counted AS (
    (
        SELECT o.id, o.datetime, o.service_ids, order_json(o) AS json
        FROM standing, orders AS o
        WHERE o.datetime >= ($2::date - 1)::timestamptz AND o.datetime < ($3::date + 1)::timestamptz
            AND (o.datetime AT TIME ZONE standing.time_zone)::date >= $2
            AND (o.datetime AT TIME ZONE standing.time_zone)::date < $3
            AND ($4::bigint[] IS NULL OR o.service_ids && $4)
            AND ($5::text[] IS NULL
                OR o.calendar_id = ANY (ARRAY(SELECT id FROM calendar WHERE name = ANY ($5))))
            AND ($6::timestamptz IS NULL OR (o.datetime, o.id) > ($6, $7::bigint))
            AND NOT EXISTS (SELECT FROM later WHERE later.order_id = o.id)
        ORDER BY o.datetime, o.id LIMIT $8
    )
    UNION ALL
    SELECT was.id, was.datetime, was.service_ids, was.json
    FROM standing, (
        SELECT
            order_id AS id, (previous_state ->> 'datetime')::timestamptz AS datetime,
            ARRAY(SELECT (s ->> 'id')::bigint FROM json_array_elements(previous_state -> 'services') AS s)
                AS service_ids,
            previous_state ->> 'calendar' AS calendar, previous_state AS json
        FROM later WHERE previous_state IS NOT NULL
    ) AS was
    WHERE (was.datetime AT TIME ZONE standing.time_zone)::date >= $2
        AND (was.datetime AT TIME ZONE standing.time_zone)::date < $3
        AND ($4::bigint[] IS NULL OR was.service_ids && $4)
        AND ($5::text[] IS NULL OR was.calendar = ANY ($5))
        AND ($6::timestamptz IS NULL OR (was.datetime, was.id) > ($6, $7::bigint))
), page AS (
    SELECT * FROM counted ORDER BY datetime, id LIMIT $8
)
SELECT
    standing.*, page.id, page.datetime, page.json,
    (page.datetime AT TIME ZONE standing.time_zone)::date AS day,
    ARRAY(
        SELECT s.share FROM fee_shares((page.json ->> 'totalfee')::numeric, page.service_ids) AS s
        WHERE s.service_id <> 0 ORDER BY s.service_id
    ) AS shares,
    (
        SELECT count(*) FROM order_change AS change
        WHERE change.position > standing.position AND change.position <= standing.applied
    ) AS reversed
FROM standing LEFT JOIN page ON true
ORDER BY page.datetime, page.id
"""


@dataclass(frozen=True)
class CountedOrdersQuery:
    """Which orders: of which days, and with which services, on which calendars (None: any)."""

    first: date
    end: date
    services: Sequence[int] | None = None
    calendars: Sequence[str] | None = None

    def statement(
        self, position: int | None, after: tuple[datetime, int] | None, limit: int
    ) -> tuple[str, list[Any]]:
        """Write the statement for the orders behind a place, with its arguments."""
        return _ORDERS.format(standing=STANDING), [
            position,
            self.first,
            self.end,
            self.services,
            self.calendars,
            *(after or (None, None)),
            limit,
        ]

    def item(self, found: Row) -> str:
        """Show an order with the share of each of its services, and how much of its fee is counted."""
        order = json.loads(found["json"], parse_float=Decimal, parse_int=Decimal)
        chosen = set(self.services or ())
        services = [
            {**service, "share": share}
            for service, share in zip(order["services"], found["shares"], strict=True)
        ]
        counted = sum(
            (service["share"] for service in services if not chosen or int(service["id"]) in chosen),
            Decimal(0),
        )
        return encode_text(
            {
                "id": order["id"],
                "version": int(order["version"]),
                "datetime": order["datetime"],
                "day": found["day"].isoformat(),
                "calendar": order["calendar"],
                "totalfee": order["totalfee"],
                "services": services,
                "counted": counted,
            }
        )


def place_of(found: Row) -> list[object]:
    """Give an order's place in the list, as a cursor keeps it."""
    return [utc_text(found["datetime"]), found["id"]]
