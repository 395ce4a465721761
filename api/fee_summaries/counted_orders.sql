-- The orders behind figures, as they were at a position: up to $limit of them after a place. At least one row
-- is returned: it has what the list is exact for.
--
-- $position: see as_of.sql
-- $first, $end: the days, up to but not including $end; null: all
-- $services: only orders with one of these services; null: all
-- $calendars: only orders on calendars of these names; null: on all
-- $after_datetime, $after_id: the place; null: the beginning
--
-- Cancelled orders are in no figures. An order without later changes is read from orders. Any other is read from the first of its later changes,
-- as the state before it. A change that has no position yet counts as later.

WITH as_of AS ({as_of}), later AS (
    SELECT DISTINCT ON (order_id) order_id, previous_state
    FROM (
        SELECT change.order_id, change.order_version, change.previous_state
        FROM as_of JOIN order_change AS change ON change.position > as_of.position
        UNION ALL
        SELECT order_id, order_version, previous_state FROM order_change WHERE position IS NULL
    ) AS change
    ORDER BY order_id, order_version
), counted AS (
    (
        -- Local midnight may come twice or never on a day when clocks change. So the index scan includes one
        -- more day at each end, and the order's own day decides.
        SELECT o.id, o.datetime, o.service_ids, o.rendered AS json
        FROM as_of, orders AS o
        WHERE o.datetime >= (coalesce($first::date, '-infinity') - 1)::timestamptz
            AND o.datetime < (coalesce($end::date, 'infinity') + 1)::timestamptz
            AND (o.datetime AT TIME ZONE as_of.time_zone)::date >= coalesce($first::date, '-infinity')
            AND (o.datetime AT TIME ZONE as_of.time_zone)::date < coalesce($end::date, 'infinity')
            AND o.status = 'booked'
            AND ($services::bigint[] IS NULL OR o.service_ids && $services)
            AND ($calendars::text[] IS NULL
                OR o.calendar_id = ANY (ARRAY(SELECT id FROM calendar WHERE name = ANY ($calendars))))
            AND ($after_datetime::timestamptz IS NULL
                OR (o.datetime, o.id) > ($after_datetime, $after_id::bigint))
            AND NOT EXISTS (SELECT FROM later WHERE later.order_id = o.id)
        ORDER BY o.datetime, o.id LIMIT $limit
    )
    UNION ALL
    SELECT previous.id, previous.datetime, previous.service_ids, previous.json
    FROM as_of, (
        SELECT
            order_id AS id, (previous_state ->> 'datetime')::timestamptz AS datetime,
            ARRAY(SELECT (s ->> 'id')::bigint FROM json_array_elements(previous_state -> 'services') AS s)
                AS service_ids,
            previous_state ->> 'calendar' AS calendar, previous_state AS json
        FROM later WHERE previous_state IS NOT NULL AND previous_state ->> 'status' IS DISTINCT FROM 'cancelled'
    ) AS previous
    WHERE (previous.datetime AT TIME ZONE as_of.time_zone)::date >= coalesce($first::date, '-infinity')
        AND (previous.datetime AT TIME ZONE as_of.time_zone)::date < coalesce($end::date, 'infinity')
        AND ($services::bigint[] IS NULL OR previous.service_ids && $services)
        AND ($calendars::text[] IS NULL OR previous.calendar = ANY ($calendars))
        AND ($after_datetime::timestamptz IS NULL
            OR (previous.datetime, previous.id) > ($after_datetime, $after_id::bigint))
), page AS (
    SELECT * FROM counted ORDER BY datetime, id LIMIT $limit
)
SELECT
    as_of.*, page.id, page.datetime, page.json,
    (page.datetime AT TIME ZONE as_of.time_zone)::date AS day,
    ARRAY(
        SELECT s.share FROM fee_shares((page.json ->> 'totalfee')::numeric, page.service_ids) AS s
        WHERE s.service_id <> 0 ORDER BY s.service_id
    ) AS shares,
    (
        SELECT count(*) FROM order_change AS change
        WHERE change.position > as_of.position AND change.position <= as_of.applied
    ) AS undone
FROM as_of LEFT JOIN page ON true
ORDER BY page.datetime, page.id
