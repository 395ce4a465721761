-- What figures are exact for: one row. Every statement that returns figures begins with it.
--
-- $position: a position; null: the current one.
--
-- A rebuild changes generation, and renaming a service changes named_at: either may change the figures of a
-- position.
SELECT
    state.generation, state.time_zone, cursor.position AS applied,
    coalesce($position::bigint, cursor.position) AS position,
    coalesce((
        SELECT step.moved_at FROM fee_summary_step AS step
        WHERE step.position >= coalesce($position::bigint, cursor.position) ORDER BY step.position LIMIT 1
    ), cursor.moved_at) AS moved_at,
    (SELECT max(updated_at) FROM service) AS named_at
FROM fee_summary_state AS state, consumer_cursor AS cursor WHERE cursor.consumer = 'fee_summaries'
