-- The trace that a change belongs to. How the schema is today, and why: shared/database/schema.sql.
--
-- An older release may go on writing meanwhile: its changes belong to no trace.

-- Not one LOCK TABLE: it would wait behind a long export, and every request behind it. The first only waits for a
-- vacuum, while requests are served; PostgreSQL cancels an automatic one for it.
SET LOCAL statement_timeout = 0;
LOCK TABLE order_change IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = '300ms';
DO $$
BEGIN
    LOOP
        BEGIN
            LOCK TABLE order_change IN ACCESS EXCLUSIVE MODE;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.2);
        END;
    END LOOP;
END
$$;

CREATE FUNCTION change_traceparent() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN length(current_setting('oms.traceparent', true)) = 55 THEN current_setting('oms.traceparent', true)
END;

-- They name a column that is added after this file, in the same transaction. PL/pgSQL looks it up when they run.
CREATE OR REPLACE FUNCTION record_order_creation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO order_change (
        type, order_id, order_version, calendar_id, recorded_at, order_state, actor, reason, traceparent
    )
    SELECT
        'order.created', id, version, calendar_id, now(), rendered, change_actor(), change_reason(),
        change_traceparent()
    FROM created;
    INSERT INTO ordered_service (service_id, order_id, datetime)
    SELECT s.id, o.id, o.datetime FROM created AS o CROSS JOIN LATERAL unnest(o.service_ids) AS s (id);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION record_order_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO order_change (
        type, order_id, order_version, calendar_id, previous_calendar_id, recorded_at,
        order_state, previous_state, actor, reason, traceparent
    ) VALUES (
        CASE
            WHEN TG_OP = 'DELETE' THEN 'order.deleted'
            WHEN NEW.status = OLD.status THEN 'order.updated'
            WHEN NEW.status = 'cancelled' THEN 'order.cancelled'
            ELSE 'order.reinstated'
        END,
        OLD.id,
        coalesce(NEW.version, OLD.version + 1),
        coalesce(NEW.calendar_id, OLD.calendar_id),
        OLD.calendar_id,
        now(),
        NEW.rendered,
        OLD.rendered,
        change_actor(),
        change_reason(),
        change_traceparent()
    );
    RETURN NULL;
END
$$;
