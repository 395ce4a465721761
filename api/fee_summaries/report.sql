-- A report: a row of totals first, and then up to $limit rows after a place. The totals are always returned,
-- with what the figures are exact for.
--
-- $position: see as_of.sql
-- $first, $end: the days, up to but not including $end; null: all
-- $group_by: the period: day, week, month, quarter, year
-- $by_service, $by_calendar: whether each service, each calendar has rows of its own
-- $services: only rows of these services; null: of all, and of service 0
-- $calendars: only orders on calendars of these names; null: on all
-- $after_period, $after_service, $after_calendar: the place; null: the beginning
-- $fill: whether periods without orders have rows
-- $max_filled_items: how many rows a filled report may have
--
-- A row of fee_summary says how many orders contribute a share of a fee to a service. Service 0 is for whole
-- orders and their whole fees: an order with three services would be counted three times in a sum over
-- services, so sums over all services are those of service 0.

WITH as_of AS ({as_of}), counted AS (
    -- The stored rows are those of the current position …
    SELECT f.day, f.calendar_id, f.service_id, f.share, f.orders::bigint AS orders
    FROM fee_summary AS f
    WHERE f.generation = (SELECT generation FROM as_of)
        AND f.day >= coalesce($first::date, '-infinity') AND f.day < coalesce($end::date, 'infinity')
        AND ($services::bigint[] IS NULL OR f.service_id = ANY ($services))
        AND ($calendars::text[] IS NULL
            OR f.calendar_id = ANY (ARRAY(SELECT id FROM calendar WHERE name = ANY ($calendars))))
    UNION ALL
    -- … and every later change is undone: minus the order after it, plus the order before it.
    SELECT f.day, calendar.id, f.service_id, f.share, state.sign
    FROM as_of
    JOIN order_change AS change ON change.position > as_of.position AND change.position <= as_of.applied
    CROSS JOIN LATERAL (VALUES (change.order_state, -1), (change.previous_state, 1)) AS state (json, sign)
    CROSS JOIN LATERAL fee_effects(state.json, as_of.time_zone) AS f
    JOIN calendar ON calendar.name = f.calendar
    WHERE state.json IS NOT NULL
        AND f.day >= coalesce($first::date, '-infinity') AND f.day < coalesce($end::date, 'infinity')
        AND ($services::bigint[] IS NULL OR f.service_id = ANY ($services))
        AND ($calendars::text[] IS NULL OR f.calendar = ANY ($calendars))
), share AS (
    -- Summed per share first, so that min and max see only shares that some order still has.
    SELECT
        date_trunc($group_by, day)::date AS period,
        CASE WHEN $by_service::boolean THEN service_id ELSE 0 END AS service_id,
        CASE WHEN $by_calendar::boolean THEN calendar_id ELSE 0 END AS calendar_id,
        share, sum(orders) AS orders
    FROM counted WHERE NOT $by_service OR service_id <> 0
    GROUP BY 1, 2, 3, 4 HAVING sum(orders) <> 0
), summed AS (
    SELECT
        period, service_id, calendar_id, sum(orders)::bigint AS orders, sum(orders * share) AS totalfee,
        min(share) AS minfee, max(share) AS maxfee
    FROM share GROUP BY 1, 2, 3
), total AS (
    SELECT
        sum(orders)::bigint AS orders, sum(orders * share) AS totalfee,
        min(share) AS minfee, max(share) AS maxfee
    FROM (
        SELECT share, sum(orders) AS orders FROM counted
        WHERE $services IS NOT NULL OR service_id = 0 GROUP BY 1 HAVING sum(orders) <> 0
    ) AS share_of_all
), series AS (
    -- The services and calendars to fill: those with orders in the report, and those named in the request.
    SELECT DISTINCT service_id, calendar_id FROM summed
    UNION
    SELECT service.id, calendar.id
    FROM (
        SELECT 0::bigint AS id WHERE NOT $by_service
        UNION ALL SELECT id FROM service WHERE $by_service AND id = ANY ($services)
    ) AS service, (
        SELECT 0 AS id WHERE NOT $by_calendar
        UNION ALL SELECT id FROM calendar WHERE $by_calendar AND name = ANY ($calendars)
    ) AS calendar
), period AS (
    -- Without $first, it begins with the first period that has orders; without $end, it ends with the last.
    SELECT at::date AS period
    FROM generate_series(
        coalesce(date_trunc($group_by, $first::timestamp), (SELECT min(period) FROM summed)),
        coalesce($end::timestamp - interval '1 day', (SELECT max(period) FROM summed)),
        CASE $group_by WHEN 'quarter' THEN interval '3 months' ELSE ('1 ' || $group_by)::interval END
    ) AS at
), filled_size AS (
    SELECT (SELECT count(*) FROM series) * (SELECT count(*) FROM period) AS items
), filled AS (
    SELECT
        period.period, series.service_id, series.calendar_id, coalesce(summed.orders, 0) AS orders,
        coalesce(summed.totalfee, 0.00) AS totalfee, summed.minfee, summed.maxfee
    FROM period CROSS JOIN series
    LEFT JOIN summed ON summed.period = period.period
        AND summed.service_id = series.service_id AND summed.calendar_id = series.calendar_id
    WHERE (SELECT items FROM filled_size) <= $max_filled_items
), item AS (
    SELECT
        s.period, s.service_id, s.calendar_id, s.orders, s.totalfee, s.minfee, s.maxfee,
        service.name AS service, coalesce(calendar.name, '') COLLATE "C" AS calendar
    FROM (
        SELECT * FROM summed WHERE NOT $fill::boolean
        UNION ALL SELECT * FROM filled WHERE $fill
    ) AS s
    LEFT JOIN service ON service.id = s.service_id LEFT JOIN calendar ON calendar.id = s.calendar_id
), page AS (
    SELECT * FROM item
    WHERE $after_period::date IS NULL
        OR (period, service_id, calendar)
            > ($after_period, $after_service::bigint, $after_calendar::text COLLATE "C")
    ORDER BY period, service_id, calendar LIMIT $limit
)
SELECT
    as_of.*, NULL::date AS period, NULL::bigint AS service_id, NULL AS service, NULL AS calendar,
    total.orders, total.totalfee, total.minfee, total.maxfee,
    (
        SELECT count(*) FROM order_change AS change
        WHERE change.position > as_of.position AND change.position <= as_of.applied
    ) AS undone,
    CASE WHEN $fill THEN (SELECT items FROM filled_size) END AS filled_items
FROM as_of, total
UNION ALL
SELECT
    as_of.*, page.period, page.service_id, page.service, page.calendar,
    page.orders, page.totalfee, page.minfee, page.maxfee, NULL, NULL
FROM as_of, page
ORDER BY period NULLS FIRST, service_id, calendar
