-- References, metadata, cancellation, actors and reasons of changes, and calendars of their own spacing. How the
-- schema is today, and why: shared/database/schema.sql.
--
-- An older release may go on writing meanwhile: its orders have no reference, no metadata and the status booked, and
-- its changes have no actor.

-- Not one LOCK TABLE: it would wait behind a long export, and every request behind it. The first only waits for a
-- vacuum, while requests are served; PostgreSQL cancels an automatic one for it.
SET LOCAL statement_timeout = 0;
LOCK TABLE orders, order_change, calendar, claimed_order_id IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = '300ms';
DO $$
BEGIN
    LOOP
        BEGIN
            LOCK TABLE orders, order_change, calendar, claimed_order_id IN ACCESS EXCLUSIVE MODE;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.2);
        END;
    END LOOP;
END
$$;


-- ---- calendars: a spacing and a title of their own; deleted ones keep their row

ALTER TABLE calendar
    ADD CONSTRAINT calendar_title CHECK (length(title) <= 100),
    ADD CONSTRAINT calendar_spacing CHECK (spacing_seconds BETWEEN 60 AND 604800);

DROP INDEX calendar_name_ignoring_case;
CREATE UNIQUE INDEX calendar_name_ignoring_case ON calendar (lower(name COLLATE "C"))
    WHERE NOT is_case_variant AND deleted_at IS NULL;

CREATE FUNCTION lock_spacing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'calendar % gets a spacing, or is deleted, at the isolation level READ COMMITTED only', OLD.id
            USING DETAIL = 'Another sees no orders that were placed since the transaction began.',
                ERRCODE = 'feature_not_supported';
    END IF;
    PERFORM pg_advisory_xact_lock(7316008, OLD.id);
    IF NEW.deleted_at IS NOT NULL AND EXISTS (SELECT FROM orders WHERE calendar_id = OLD.id) THEN
        RAISE EXCEPTION 'calendar % has orders', OLD.id USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER calendar_lock_spacing BEFORE UPDATE OF spacing_seconds, deleted_at ON calendar FOR EACH ROW
    WHEN (NEW.spacing_seconds <> OLD.spacing_seconds OR NEW.deleted_at IS NOT NULL)
    EXECUTE FUNCTION lock_spacing();

CREATE FUNCTION apply_spacing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE orders SET clear_until = datetime + make_interval(secs => NEW.spacing_seconds)
    WHERE calendar_id = NEW.id AND status = 'booked';
    RETURN NULL;
END
$$;
CREATE TRIGGER calendar_apply_spacing AFTER UPDATE OF spacing_seconds ON calendar FOR EACH ROW
    WHEN (NEW.spacing_seconds <> OLD.spacing_seconds) EXECUTE FUNCTION apply_spacing();


-- ---- orders: constraints are checked for rows that exist by the next migration

ALTER TABLE orders ALTER COLUMN clear_until DROP EXPRESSION;
ALTER TABLE orders
    ADD CONSTRAINT orders_reference_text CHECK (
        length(reference) BETWEEN 1 AND 64 AND reference = btrim(reference)
        AND reference !~ '[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]'
    ) NOT VALID,
    ADD CONSTRAINT orders_metadata_object CHECK (
        jsonb_typeof(metadata) = 'object'
        AND NOT jsonb_path_exists(metadata, 'strict $.* ? (@.type() <> "string")')
    ) NOT VALID,
    ADD CONSTRAINT orders_status CHECK (status IN ('booked', 'cancelled')) NOT VALID,
    ADD CONSTRAINT orders_clear_until CHECK (clear_until >= datetime) NOT VALID;

-- Callers may choose ids below 10^15 now. Orders and services that got an id from 10^12 on earlier keep it.
ALTER TABLE claimed_order_id DROP CONSTRAINT claimed_order_id_by_caller;
ALTER TABLE claimed_order_id
    ADD CONSTRAINT claimed_order_id_by_caller CHECK (id BETWEEN 1 AND 999999999999999) NOT VALID;
ALTER SEQUENCE orders_id_seq START WITH 1000000000000000;
ALTER SEQUENCE service_id_seq START WITH 1000000000000000;
SELECT setval('orders_id_seq', 1000000000000000, false) FROM orders_id_seq WHERE last_value < 1000000000000000;
SELECT setval('service_id_seq', 1000000000000000, false) FROM service_id_seq WHERE last_value < 1000000000000000;

-- Not a default: see render_order.
ALTER TABLE orders ALTER COLUMN created_at DROP DEFAULT, ALTER COLUMN updated_at DROP DEFAULT;

CREATE FUNCTION require_place() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM orders WHERE id = NEW.id
            AND ((status = 'booked' AND clear_until = datetime) OR reference IS DISTINCT FROM rendered ->> 'reference')
    ) THEN
        RAISE EXCEPTION 'order % left its place or its reference and got none', NEW.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER orders_require_place AFTER UPDATE ON orders DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (
        (NEW.status = 'booked' AND NEW.clear_until = NEW.datetime)
        OR (NEW.version = OLD.version AND NEW.reference IS DISTINCT FROM OLD.reference)
    )
    EXECUTE FUNCTION require_place();


-- ---- how an order is rendered, and where it stands

CREATE OR REPLACE FUNCTION order_json(o orders) RETURNS json LANGUAGE sql STABLE PARALLEL SAFE
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
            c.name AS calendar,
            o.reference AS reference,
            o.metadata AS metadata,
            o.status AS status,
            o.version AS version,
            utc_text(o.created_at) AS created_at,
            utc_text(o.updated_at) AS updated_at
        FROM calendar AS c WHERE c.id = o.calendar_id
    ) AS shown
);

CREATE OR REPLACE FUNCTION order_format() RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 2;

CREATE OR REPLACE FUNCTION render_order() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    anew orders;
    spacing interval;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.version = OLD.version THEN
        -- Not a change of the order: it is rendered anew, gets its calendar's new spacing, or leaves its place or its
        -- reference to another order, before it gets its own.
        anew := OLD;
        anew.format := NEW.format;
        anew.clear_until := NEW.clear_until;
        IF NEW.reference IS NULL THEN
            anew.reference := NULL;
        END IF;
        IF NEW *<> anew THEN  -- byte by byte: json has no equality
            RAISE EXCEPTION 'an update of order % must add one to its version', OLD.id;
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        IF NEW.updated_at = OLD.updated_at THEN
            NEW.updated_at := clock_timestamp();
        END IF;
    ELSE
        -- Not a default of the columns: the time at which the transaction began may be before the time up to which
        -- a reader of sort=updated_at has read already.
        NEW.updated_at := coalesce(NEW.updated_at, clock_timestamp());
        NEW.created_at := coalesce(NEW.created_at, NEW.updated_at);
    END IF;
    IF TG_OP = 'INSERT'
        OR (NEW.calendar_id, NEW.datetime, NEW.status, NEW.clear_until)
            IS DISTINCT FROM (OLD.calendar_id, OLD.datetime, OLD.status, OLD.clear_until)
        -- It left its place. A cancelled order has none, and needs no lock to stay without.
        OR (NEW.version <> OLD.version AND NEW.status = 'booked' AND NEW.clear_until = NEW.datetime)
    THEN
        -- The spacing can't change, and the calendar can't be deleted, before this transaction ends.
        PERFORM pg_advisory_xact_lock_shared(7316008, NEW.calendar_id);
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            -- The calendar is read as it was when the transaction began: this fails if it has changed since.
            PERFORM FROM calendar WHERE id = NEW.calendar_id FOR SHARE;
        END IF;
        SELECT make_interval(secs => spacing_seconds) INTO spacing
        FROM calendar WHERE id = NEW.calendar_id AND deleted_at IS NULL;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no calendar %', NEW.calendar_id USING ERRCODE = 'foreign_key_violation';
        END IF;
        IF NEW.status = 'cancelled' THEN
            NEW.clear_until := NEW.datetime;
        ELSIF TG_OP = 'INSERT' OR NEW.version <> OLD.version THEN
            NEW.clear_until := NEW.datetime + spacing;
        ELSIF NEW.clear_until NOT IN (NEW.datetime, NEW.datetime + spacing) THEN
            RAISE EXCEPTION 'clear_until of order % must be its datetime plus the calendar''s spacing', OLD.id;
        END IF;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.version = OLD.version AND NEW.reference IS DISTINCT FROM OLD.reference THEN
        NEW.format := OLD.format;  -- as callers know it: the previous state of the change that follows
        RETURN NEW;
    END IF;
    NEW.format := order_format();
    NEW.rendered := order_json(NEW);
    IF TG_OP = 'UPDATE' AND NEW.version = OLD.version AND NEW.format = OLD.format
        AND NEW.rendered::text <> OLD.rendered::text
    THEN
        RAISE EXCEPTION 'order_json was changed, and order_format was not: one entity tag would mean two texts';
    END IF;
    RETURN NEW;
END
$$;


-- ---- the orders that have a key and value in their metadata, in the orders of the lists

CREATE TABLE order_metadata (
    key text NOT NULL,
    value text NOT NULL,
    order_id bigint NOT NULL,
    datetime timestamptz NOT NULL,  -- the order's
    PRIMARY KEY (key, value, order_id)
);
CREATE UNIQUE INDEX order_metadata_by_datetime ON order_metadata (key, value, datetime, order_id);

CREATE FUNCTION keep_order_metadata() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        TRUNCATE order_metadata;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM order_metadata AS kept USING jsonb_each_text(OLD.metadata) AS entry
        WHERE (kept.key, kept.value, kept.order_id) = (entry.key, entry.value, OLD.id);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO order_metadata (key, value, order_id, datetime)
        SELECT key, value, NEW.id, NEW.datetime FROM jsonb_each_text(NEW.metadata);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER orders_add_metadata AFTER INSERT ON orders FOR EACH ROW
    WHEN (NEW.metadata <> '{}') EXECUTE FUNCTION keep_order_metadata();
CREATE TRIGGER orders_change_metadata AFTER UPDATE ON orders FOR EACH ROW
    WHEN (NEW.metadata <> OLD.metadata OR (NEW.datetime <> OLD.datetime AND NEW.metadata <> '{}'))
    EXECUTE FUNCTION keep_order_metadata();
CREATE TRIGGER orders_forget_metadata AFTER DELETE ON orders FOR EACH ROW
    WHEN (OLD.metadata <> '{}') EXECUTE FUNCTION keep_order_metadata();
CREATE TRIGGER orders_empty_metadata AFTER TRUNCATE ON orders
    FOR EACH STATEMENT EXECUTE FUNCTION keep_order_metadata();


-- ---- changes: who and why, and two new types

ALTER TABLE order_change DROP CONSTRAINT order_change_states;
ALTER TABLE order_change
    ADD CONSTRAINT order_change_states CHECK (
        (type = 'order.created' AND order_state IS NOT NULL AND previous_state IS NULL)
        OR (type IN ('order.updated', 'order.cancelled', 'order.reinstated')
            AND order_state IS NOT NULL AND previous_state IS NOT NULL)
        OR (type = 'order.deleted' AND order_state IS NULL AND previous_state IS NOT NULL)
    ) NOT VALID,
    ADD CONSTRAINT order_change_reason CHECK (length(reason) <= 200) NOT VALID;

CREATE FUNCTION change_actor() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(
    nullif(current_setting('oms.actor', true), ''),
    CASE WHEN current_setting('application_name') <> 'oms' THEN 'operator' END
);
CREATE FUNCTION change_reason() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN nullif(current_setting('oms.reason', true), '');

CREATE OR REPLACE FUNCTION record_order_creation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO order_change (
        type, order_id, order_version, calendar_id, recorded_at, order_state, actor, reason
    )
    SELECT
        'order.created', id, version, calendar_id, now(), rendered, change_actor(), change_reason()
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
        order_state, previous_state, actor, reason
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
        change_reason()
    );
    RETURN NULL;
END
$$;


-- ---- fee summaries: a cancelled order adds nothing

CREATE OR REPLACE FUNCTION fee_effects(state json, zone text)
RETURNS TABLE (day date, calendar text, service_id bigint, share numeric) LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT (o.datetime AT TIME ZONE zone)::date, o.calendar, s.service_id, s.share
    FROM (
        SELECT
            j.datetime, j.totalfee, j.calendar,
            ARRAY(SELECT (service ->> 'id')::bigint FROM json_array_elements(j.services) AS service) AS service_ids
        FROM json_to_record(state)
            AS j (datetime timestamptz, totalfee numeric, calendar text, services json, status text)
        WHERE j.status IS DISTINCT FROM 'cancelled'
        OFFSET 0
    ) AS o
    CROSS JOIN LATERAL fee_shares(o.totalfee, o.service_ids) AS s;
END;
