-- Positions are assigned in one statement, and the effects of a change on fee summaries are read from its states in
-- one pass. How the schema is today, and why: shared/database/schema.sql.

CREATE FUNCTION assign_positions(most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
    waiting bigint[];
BEGIN
    PERFORM FROM order_change WHERE position IS NULL ORDER BY id LIMIT 1;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT last_position INTO STRICT last FROM change_log WHERE id = 1 FOR UPDATE;
    waiting := ARRAY(SELECT id FROM order_change WHERE position IS NULL ORDER BY id LIMIT most);
    EXECUTE 'UPDATE order_change SET position = $1 + width_bucket(id, $2) WHERE id = ANY($2)' USING last, waiting;
    UPDATE change_log SET last_position = last + cardinality(waiting) WHERE id = 1;
    RETURN cardinality(waiting);
END
$$;

CREATE OR REPLACE FUNCTION fee_effects(state json, zone text)
RETURNS TABLE (day date, calendar text, service_id bigint, share numeric) LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT (o.datetime AT TIME ZONE zone)::date, o.calendar, s.service_id, s.share
    FROM (
        SELECT
            j.datetime, j.totalfee, j.calendar,
            ARRAY(SELECT (service ->> 'id')::bigint FROM json_array_elements(j.services) AS service) AS service_ids
        FROM json_to_record(state) AS j (datetime timestamptz, totalfee numeric, calendar text, services json)
        OFFSET 0
    ) AS o
    CROSS JOIN LATERAL fee_shares(o.totalfee, o.service_ids) AS s;
END;
