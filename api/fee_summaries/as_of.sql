-- What figures are exact for: one row. It comes first in every statement that returns figures.
--
-- $position: a position; null: the present one.
--
-- generation and named_at change when the figures of one position do: by a rebuild, by a service's new name.
SELECT
    state.generation, state.time_zone, cursor.position AS applied,
    coalesce($position::bigint, cursor.position) AS position,
    coalesce((
        SELECT step.moved_at FROM fee_summary_step AS step
        WHERE step.position >= coalesce($position::bigint, cursor.position) ORDER BY step.position LIMIT 1
    ), cursor.moved_at) AS moved_at,
    (SELECT max(updated_at) FROM service) AS named_at
FROM fee_summary_state AS state, consumer_cursor AS cursor WHERE cursor.consumer = 'fee_summaries'
