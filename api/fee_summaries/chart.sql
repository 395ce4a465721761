-- A report as the parts of a bar chart: a series for each service and calendar of it, the largest ones by
-- themselves and all others as one, over a time axis that may be too long to be drawn whole.
--
-- Each row has what the figures are exact for, the totals, the axis, and a part of a bar (null without orders).
--
-- The parameters of report.sql (no limit, place or filling), and
-- $most_periods, $most_parts: how many periods, and parts of all bars, may be drawn
-- $most_series: how many series have a colour of their own

WITH report AS (
{report}
), item AS (
    SELECT * FROM report WHERE period IS NOT NULL
), size AS (
    SELECT
        CASE $group_by WHEN 'quarter' THEN interval '3 months' ELSE ('1 ' || $group_by)::interval END AS step,
        least($most_periods::integer, $most_parts::integer / greatest(1, least($most_series::integer + 1, (
            SELECT count(*) FROM (SELECT DISTINCT service_id, calendar FROM item) AS series
        )))) - 1 AS steps
), used AS (
    SELECT
        min(period) AS first, max(period) AS last,
        coalesce(date_trunc($group_by, $first::timestamp)::date, min(period)) AS requested_first,
        coalesce(date_trunc($group_by, $end::timestamp - interval '1 day')::date, max(period)) AS requested_last
    FROM item
), axis AS (
    -- The requested days if they can be drawn; otherwise those with orders, and of these the latest.
    SELECT
        CASE WHEN is_whole THEN used.requested_first
            ELSE greatest(used.first, (used.last - size.steps * size.step)::date) END AS first,
        CASE WHEN is_whole THEN used.requested_last ELSE used.last END AS last,
        coalesce(NOT is_whole, false) AS is_cut
    FROM used, size, LATERAL (
        SELECT used.requested_first >= used.requested_last - size.steps * size.step AS is_whole
    ) AS whole
), left_out AS (
    SELECT min(item.period) AS first, sum(item.totalfee) AS totalfee
    FROM item, axis WHERE item.period < axis.first
), ranked AS (
    SELECT
        service_id, calendar,
        row_number() OVER (ORDER BY sum(totalfee) DESC, service_id, calendar) - 1 AS series
    FROM item, axis WHERE item.period >= axis.first
    GROUP BY service_id, calendar
), part AS (
    SELECT
        item.period, least(ranked.series, $most_series)::integer AS series,
        max(item.service) FILTER (WHERE ranked.series < $most_series) AS service,
        max(item.service_id) FILTER (WHERE ranked.series < $most_series) AS service_id,
        max(item.calendar) FILTER (WHERE ranked.series < $most_series) AS calendar,
        sum(item.totalfee) AS totalfee
    FROM item JOIN ranked USING (service_id, calendar), axis
    WHERE item.period >= axis.first
    GROUP BY 1, 2
)
SELECT
    report.position, report.moved_at, report.applied, report.generation, report.time_zone, report.named_at,
    report.undone, report.orders AS all_orders, report.totalfee AS all_totalfee, report.minfee, report.maxfee,
    axis.first, axis.last, axis.is_cut, left_out.first AS left_out_first, left_out.totalfee AS left_out_totalfee,
    (SELECT count(*) FROM ranked) AS all_series,
    part.period, part.series, part.service, part.service_id, part.calendar, part.totalfee
FROM axis, left_out, report LEFT JOIN part ON true
WHERE report.period IS NULL
ORDER BY part.series, part.period
