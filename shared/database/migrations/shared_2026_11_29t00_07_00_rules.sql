-- What Piccolo can't express of the schema: rules, derived columns, functions, triggers, indexes, first rows.
-- The migration beside this file runs it, on the tables that the migration before it made. Like every
-- migration it never changes once it is released. How the schema is today: shared/database/schema.sql.
--
-- Bounds are checked here behind the API's own, because asyncpg stores some numbers that it can't hold as 0,
-- and a year beyond 9999 makes a row unreadable.


-- ---- calendars and services

CREATE EXTENSION IF NOT EXISTS btree_gist;

ALTER TABLE calendar
    ADD CONSTRAINT calendar_name CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' AND length(name) <= 64);

ALTER TABLE service ADD CONSTRAINT service_name_length CHECK (length(name) BETWEEN 1 AND 100);
CREATE UNIQUE INDEX service_name_in_use ON service (lower(name)) WHERE archived_at IS NULL;

-- Callers may choose ids below 10^12; the sequences start there, so the two never collide.
ALTER SEQUENCE service_id_seq START WITH 1000000000000 RESTART WITH 1000000000000;
ALTER SEQUENCE orders_id_seq START WITH 1000000000000 RESTART WITH 1000000000000;
ALTER TABLE claimed_order_id ADD CONSTRAINT claimed_order_id_by_caller CHECK (id BETWEEN 1 AND 999999999999);


-- ---- orders

-- One sequence for both: an order that is not imported has an import_id of its own.
CREATE SEQUENCE order_import_id_seq;
ALTER TABLE orders ALTER COLUMN import_id SET DEFAULT nextval('order_import_id_seq');
ALTER TABLE order_import ALTER COLUMN id SET DEFAULT nextval('order_import_id_seq');

ALTER TABLE orders
    ADD COLUMN clear_until timestamptz NOT NULL,
    ADD CONSTRAINT orders_clear_until CHECK (clear_until = datetime + interval '3 hours'),

    -- The 3-hour rule. The ranges are half-open, so exactly three hours apart is allowed. Orders of one import
    -- may be closer to each other; no other order may be placed near them.
    ADD CONSTRAINT orders_spacing EXCLUDE USING gist (
        calendar_id WITH =,
        tstzrange(datetime, clear_until) WITH &&,
        import_id WITH <>
    ),

    ADD CONSTRAINT orders_datetime
        CHECK (datetime >= '1970-01-01T00:00:00Z' AND datetime < '2200-01-01T00:00:00Z'),
    ADD CONSTRAINT orders_totalfee CHECK (totalfee BETWEEN 0 AND 9999999999.99),
    ADD CONSTRAINT orders_version CHECK (version >= 1),
    ADD CONSTRAINT orders_services
        CHECK (cardinality(service_ids) BETWEEN 1 AND 50 AND cardinality(service_names) = cardinality(service_ids));

CREATE INDEX orders_by_datetime ON orders (datetime, id);
CREATE INDEX orders_by_calendar ON orders (calendar_id, datetime, id);
-- Without it, GET /orders?calendar=…&sort=id reads the orders of all calendars until a page is full: all of
-- them, for a calendar that has few or none.
CREATE INDEX orders_by_calendar_and_id ON orders (calendar_id, id);


-- ---- how an order is rendered: in one place, so that one version of an order is the same bytes everywhere

CREATE FUNCTION utc_text(at timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN regexp_replace(to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '000$', '') || 'Z';

CREATE FUNCTION order_json(o orders) RETURNS json LANGUAGE sql STABLE PARALLEL SAFE
RETURN (
    SELECT row_to_json(shown) FROM (
        SELECT
            o.id::text AS id,
            utc_text(o.datetime) AS datetime,
            o.totalfee AS totalfee,
            (
                SELECT array_to_json(array_agg(
                    (SELECT row_to_json(s) FROM (SELECT u.id::text AS id, u.name AS name) AS s)
                    ORDER BY u.place
                ))
                FROM unnest(o.service_ids, o.service_names) WITH ORDINALITY AS u (id, name, place)
            ) AS services,
            (SELECT c.name FROM calendar AS c WHERE c.id = o.calendar_id) AS calendar,
            o.version AS version,
            utc_text(o.created_at) AS created_at,
            utc_text(o.updated_at) AS updated_at
    ) AS shown
);


-- ---- the orders of a service, in the orders of the lists: an index on orders.service_ids gives them unsorted

CREATE TABLE ordered_service (
    service_id bigint NOT NULL,
    order_id bigint NOT NULL,
    datetime timestamptz NOT NULL,
    PRIMARY KEY (service_id, order_id)
);
CREATE UNIQUE INDEX ordered_service_by_datetime ON ordered_service (service_id, datetime, order_id);

CREATE FUNCTION keep_ordered_services() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        TRUNCATE ordered_service;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM ordered_service WHERE order_id = OLD.id AND service_id = ANY(OLD.service_ids);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO ordered_service (service_id, order_id, datetime)
        SELECT s.id, NEW.id, NEW.datetime FROM unnest(NEW.service_ids) AS s (id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER orders_keep_ordered_services AFTER INSERT OR DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION keep_ordered_services();
CREATE TRIGGER orders_move_ordered_services AFTER UPDATE ON orders FOR EACH ROW
    WHEN (NEW.datetime <> OLD.datetime OR NEW.service_ids <> OLD.service_ids)
    EXECUTE FUNCTION keep_ordered_services();
CREATE TRIGGER orders_forget_ordered_services AFTER TRUNCATE ON orders
    FOR EACH STATEMENT EXECUTE FUNCTION keep_ordered_services();


-- ---- the change log

ALTER TABLE order_change
    ALTER COLUMN event_id SET DEFAULT uuidv7(),
    ADD CONSTRAINT order_change_states CHECK (
        (type = 'order.created' AND order_state IS NOT NULL AND previous_state IS NULL)
        OR (type = 'order.updated' AND order_state IS NOT NULL AND previous_state IS NOT NULL)
        OR (type = 'order.deleted' AND order_state IS NULL AND previous_state IS NOT NULL)
    );
CREATE INDEX order_change_unassigned ON order_change (id) WHERE position IS NULL;
CREATE UNIQUE INDEX order_change_of_order ON order_change (order_id, order_version);

ALTER TABLE change_log ADD CONSTRAINT change_log_one_row CHECK (id = 1);
INSERT INTO change_log (id, last_position, first_position) VALUES (1, 0, 1);

-- The order and its change are one statement, by whatever path the order is written: they commit together or
-- not at all.
CREATE FUNCTION record_order_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO order_change (
        type, order_id, order_version, calendar_id, previous_calendar_id, recorded_at,
        order_state, previous_state
    )
    SELECT
        CASE TG_OP WHEN 'INSERT' THEN 'order.created' WHEN 'UPDATE' THEN 'order.updated'
            ELSE 'order.deleted' END,
        coalesce(NEW.id, OLD.id),
        coalesce(NEW.version, OLD.version + 1),
        coalesce(NEW.calendar_id, OLD.calendar_id),
        OLD.calendar_id,
        now(),
        CASE WHEN TG_OP <> 'DELETE' THEN order_json(NEW) END,
        CASE WHEN TG_OP <> 'INSERT' THEN order_json(OLD) END;
    RETURN NULL;
END
$$;
CREATE TRIGGER orders_record_change AFTER INSERT OR UPDATE OR DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION record_order_change();


-- ---- consumers: nothing is committed yet, so both begin at 0

INSERT INTO consumer_cursor (consumer, position) VALUES ('fee_summaries', 0), ('webhook_deliveries', 0);


-- ---- fee summaries (the migration inserts the row of fee_summary_state: it needs OMS_TIME_ZONE)

CREATE FUNCTION fee_shares(totalfee numeric, service_ids bigint[])
RETURNS TABLE (service_id bigint, share numeric) LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT 0::bigint, round(totalfee, 2)
    UNION ALL
    SELECT
        s.id,
        round((
            div(totalfee * 100, cardinality(service_ids))
            + CASE WHEN s.place <= mod(totalfee * 100, cardinality(service_ids)) THEN 1 ELSE 0 END
        ) / 100, 2)
    FROM unnest(service_ids) WITH ORDINALITY AS s (id, place);
END;

-- One SELECT, so that PostgreSQL can inline it.
CREATE FUNCTION fee_effects(state json, zone text)
RETURNS TABLE (day date, calendar text, service_id bigint, share numeric) LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT
        ((state ->> 'datetime')::timestamptz AT TIME ZONE zone)::date, state ->> 'calendar',
        s.service_id, s.share
    FROM fee_shares(
        (state ->> 'totalfee')::numeric,
        ARRAY(SELECT (o ->> 'id')::bigint FROM json_array_elements(state -> 'services') AS o)
    ) AS s;
END;

ALTER TABLE fee_summary ADD CONSTRAINT fee_summary_orders CHECK (orders > 0);
CREATE UNIQUE INDEX fee_summary_key ON fee_summary (generation, day, calendar_id, service_id, share);

ALTER TABLE fee_summary_state ADD CONSTRAINT fee_summary_state_id_check CHECK (id = 1);

INSERT INTO fee_summary_step (position, moved_at)
SELECT position, moved_at FROM consumer_cursor WHERE consumer = 'fee_summaries';

-- The first proof is due a day after the installation.
ALTER TABLE fee_summary_proof ADD CONSTRAINT fee_summary_proof_id_check CHECK (id = 1);
INSERT INTO fee_summary_proof (id) VALUES (1);


-- ---- webhooks

ALTER TABLE webhook
    ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY,
    ADD CONSTRAINT webhook_disabled CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL)),
    ADD CONSTRAINT webhook_disabled_reason CHECK (disabled_reason IN ('caller', 'gone', 'failing'));

ALTER TABLE webhook_secret ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY;
CREATE UNIQUE INDEX webhook_secret_current ON webhook_secret (webhook_id) WHERE valid_until IS NULL;

ALTER TABLE webhook_delivery
    ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY,
    ADD CONSTRAINT webhook_delivery_state
        CHECK (state IN ('pending', 'retrying', 'delivered', 'exhausted', 'disabled')),
    ADD CONSTRAINT webhook_delivery_due CHECK ((next_attempt_at IS NOT NULL) = (state IN ('pending', 'retrying'))),
    ADD CONSTRAINT webhook_delivery_acknowledged CHECK ((acknowledged_at IS NOT NULL) = (state = 'delivered')),
    -- A change's notification is encoded from the change log; any other is stored here.
    ADD CONSTRAINT webhook_delivery_payload CHECK ((position IS NULL) = (payload IS NOT NULL));
CREATE UNIQUE INDEX webhook_delivery_of_change ON webhook_delivery (webhook_id, position);
CREATE INDEX webhook_delivery_due ON webhook_delivery (webhook_id, next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX webhook_delivery_next ON webhook_delivery (webhook_id, position NULLS FIRST, id)
    WHERE next_attempt_at IS NOT NULL;
CREATE INDEX webhook_delivery_missed ON webhook_delivery (webhook_id, position) WHERE state <> 'delivered';
CREATE INDEX webhook_delivery_newest ON webhook_delivery (webhook_id, id);
CREATE INDEX webhook_delivery_by_position ON webhook_delivery (position);

ALTER TABLE webhook_attempt ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY;
CREATE INDEX webhook_attempt_of_delivery ON webhook_attempt (delivery_id, id);

CREATE FUNCTION webhook_wants(w webhook, c order_change) RETURNS boolean LANGUAGE sql STABLE
RETURN c.position > w.starts_after
    AND (cardinality(w.types) = 0 OR c.type = ANY (w.types))
    AND (cardinality(w.calendars) = 0 OR EXISTS (
        SELECT FROM calendar AS k
        WHERE k.id IN (c.calendar_id, c.previous_calendar_id) AND k.name = ANY (w.calendars)
    ));


-- ---- idempotency keys

CREATE TABLE idempotency_key (
    caller text NOT NULL,
    operation text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    answer text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (caller, operation, key)
);
CREATE INDEX idempotency_key_by_age ON idempotency_key (created_at);
