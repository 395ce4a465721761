-- The whole schema as it is today, in the order in which to read it. This file is documentation that runs: on an
-- empty database it creates what the migrations create, and tests/test_schema.py checks that both are equal.
-- Databases are created and upgraded by the migrations alone (python -m shared.database.migrate).
--
-- "Guarantee 1" to "guarantee 6" are what the service promises. A comment names each one where the database
-- enforces it:
--
--   1  two booked orders on a calendar are never nearer than its spacing (three hours unless it is given another),
--      except orders imported together
--   2  an order and its change are stored together or not at all
--   3  positions of changes have no gap, and nothing new appears at or below a position that was read
--   4  only PostgreSQL's data must survive: everything else is recovered from it
--   5  a fee summary is exact for the position that it states
--   6  a create that is repeated with its Idempotency-Key stores one order
--
-- The bounds of numbers and times are checked here as well as by the API, because asyncpg stores some numbers
-- that it can't hold as 0, and a year beyond 9999 makes a row unreadable.

CREATE EXTENSION btree_gist;  -- lets an exclusion constraint compare integers (calendar_id, import_id)


-- =============================================================================================================
-- Calendars and services
-- =============================================================================================================

-- A name on an order, and how far apart orders on it are at least. A calendar is created with its first order, or by
-- a PUT. Its row is never renamed or deleted: a trigger refuses it, since every order's text has the name.
--
-- State: in use while deleted_at is null. One that has no orders can be deleted; an order or a PUT that names it
-- restores it.
--
-- Written by: api/orders/calendars.py (make_calendar), api/calendars/commands.py.
CREATE TABLE calendar (
    id serial PRIMARY KEY,  -- random, not from the sequence: rolled-back creates would exhaust the sequence
    name text NOT NULL DEFAULT '' UNIQUE,  -- as the caller wrote it, and looked up in that case only
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    is_case_variant boolean NOT NULL DEFAULT false,  -- true: from before names that differ only in case were refused
    title text NOT NULL DEFAULT '',  -- for people
    spacing_seconds integer NOT NULL DEFAULT 10800,  -- how far apart two orders are at least: three hours
    deleted_at timestamptz,

    CONSTRAINT calendar_name CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' AND length(name) <= 64),
    CONSTRAINT calendar_title CHECK (length(title) <= 100),
    CONSTRAINT calendar_spacing CHECK (spacing_seconds BETWEEN 60 AND 604800)
);
-- No two calendars whose names differ only in case: orders on one would not see those on the other.
CREATE UNIQUE INDEX calendar_name_ignoring_case ON calendar (lower(name COLLATE "C"))
    WHERE NOT is_case_variant AND deleted_at IS NULL;

CREATE FUNCTION refuse_calendar_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'calendar % can''t be renamed or deleted: its orders'' texts have its name', OLD.id;
END
$$;
CREATE TRIGGER calendar_is_final BEFORE UPDATE OF id, name OR DELETE ON calendar
    FOR EACH ROW EXECUTE FUNCTION refuse_calendar_change();

-- TRUNCATE fires no trigger of rows. It is fine if it empties orders too.
CREATE FUNCTION refuse_truncation_of_calendars() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM orders) THEN
        RAISE EXCEPTION 'calendars can''t be truncated without orders: their texts have calendars'' names';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER calendar_is_kept AFTER TRUNCATE ON calendar
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncation_of_calendars();

-- Guarantee 1: whatever places an order on a calendar holds this lock shared (render_order), so all orders on it have
-- the same spacing. 7316008 is SPACING_LOCK in shared/database/locks.py.
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

-- The constraint orders_spacing refuses it if booked orders are nearer to each other than the new spacing.
CREATE FUNCTION apply_spacing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE orders SET clear_until = datetime + make_interval(secs => NEW.spacing_seconds)
    WHERE calendar_id = NEW.id AND status = 'booked';
    RETURN NULL;
END
$$;
CREATE TRIGGER calendar_apply_spacing AFTER UPDATE OF spacing_seconds ON calendar FOR EACH ROW
    WHEN (NEW.spacing_seconds <> OLD.spacing_seconds) EXECUTE FUNCTION apply_spacing();

-- What can be ordered. Archived, never deleted, so that the services of an old order can still be read.
--
-- State: in use while archived_at is null. Archived and restored by api/services/commands.py.
--
-- Written by: api/services/commands.py; imports (api/orders/imports/imported_services.py).
CREATE TABLE service (
    id bigserial PRIMARY KEY,  -- below 10^15 chosen by the caller, from there on by the sequence
    name text NOT NULL DEFAULT '',  -- its name_key is unique among services that are not archived
    archived_at timestamptz,  -- since when it can't be ordered any more
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT service_name_length CHECK (length(name) BETWEEN 1 AND 100),
    -- Not blank, and without INVISIBLE_CHARACTERS (api/http/fields.py): what looks the same is the same.
    CONSTRAINT service_name_visible CHECK (
        btrim(normalize(name, NFKC), U&' \1680') <> ''
        AND name !~ '[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]'
    )
);
ALTER SEQUENCE service_id_seq START WITH 1000000000000000 RESTART WITH 1000000000000000;

-- Names are compared as Unicode's compatibility caseless match (section 3.13, D146) compares them: neither case nor
-- the form of letters (full-width, ligatures, composed or not) makes a difference.
CREATE FUNCTION name_key(name text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN normalize(casefold(
    normalize(casefold(normalize(name, NFD) COLLATE pg_unicode_fast), NFKD) COLLATE pg_unicode_fast
), NFKD);
CREATE UNIQUE INDEX service_name_in_use ON service (name_key(name)) WHERE archived_at IS NULL;


-- =============================================================================================================
-- Orders and the rule
-- =============================================================================================================

-- Ids that callers gave to orders, including orders deleted since: an id is never used again. Ids that the sequence
-- gave out below 10^15, when it started at 10^12, are not here: claim_ids looks for them in orders and deleted_order.
--
-- Written by: api/orders/commands.py (claim_ids), in the transaction that stores the order.
CREATE TABLE claimed_order_id (
    id bigint PRIMARY KEY,

    CONSTRAINT claimed_order_id_by_caller CHECK (id BETWEEN 1 AND 999999999999999)
);

-- One sequence for two columns: an import takes a number, and its orders share it; any other order takes a
-- number of its own.
CREATE SEQUENCE order_import_id_seq;

-- Files whose orders were imported together, with a history of their own (the sample data, an older system).
--
-- Written by: api/orders/imports/commands.py, in the transaction that stores the orders.
CREATE TABLE order_import (
    id bigint PRIMARY KEY DEFAULT nextval('order_import_id_seq'),  -- the import_id of its orders
    sha256 text NOT NULL DEFAULT '' UNIQUE,  -- of the file: the same file is not imported twice
    file_name text NOT NULL DEFAULT '',  -- for information only
    orders integer NOT NULL,  -- how many orders it contained
    imported_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);

-- Where an imported order came from. If it was moved, it can return there and shares the import's number again; so
-- can one that was deleted and is imported again. Rows are never changed or deleted.
--
-- Guarantee 1: an order has the number of an import only at a place that it has here. So orders are near each other
-- only where their import placed them.
--
-- Written by: api/orders/imports/commands.py, in the transaction that stores the orders.
CREATE TABLE imported_place (
    order_id bigint NOT NULL,
    calendar_id integer NOT NULL,
    datetime timestamptz NOT NULL,
    import_id bigint NOT NULL,  -- of order_import
    PRIMARY KEY (order_id, calendar_id, datetime)
);

-- The ids of deleted orders. Only an import uses one again, for the order that had it: it continues its versions.
--
-- Written by: a trigger of orders, below. Nothing else writes it.
CREATE TABLE deleted_order (
    id bigint PRIMARY KEY,
    version integer NOT NULL  -- of its latest deletion
);

-- Orders as they are now. Deleting an order deletes the row; its history remains in order_change.
--
-- Written by: api/orders/commands.py (create, batch), updates.py (replace, patch, cancel, reinstate,
-- delete), batch_updates.py (the same of many), imports.py.
-- Triggers render the order and write its change, its entries in ordered_service and order_metadata and, when it is
-- deleted, its entry in deleted_order in the same statement.
--
-- States: booked, cancelled. A cancelled order is kept, but takes no place and adds nothing to the fee summaries.
--   booked → cancelled   POST /orders/{id}/cancel (api/orders/updates.py)
--   cancelled → booked   POST /orders/{id}/reinstate, if its place is free
--
-- Guarantees: 1 (orders_spacing) and 2 (orders_record_creation, orders_record_update, orders_record_deletion).
CREATE TABLE orders (
    id bigserial PRIMARY KEY,  -- below 10^15 chosen by the caller, from there on by the sequence
    datetime timestamptz NOT NULL,  -- when the work is scheduled
    clear_until timestamptz NOT NULL,  -- written by a trigger. Booked: datetime + the calendar's spacing, from when
                                       -- the next order may be placed. Cancelled: datetime, so its range is empty
    totalfee numeric(12, 2) NOT NULL,
    service_ids bigint[] NOT NULL,  -- ascending
    service_names text[] NOT NULL,  -- in the order of service_ids; as of the order's last write
    calendar_id integer NOT NULL,  -- of calendar: a trigger checks it. A foreign key would lock the calendar's row
    import_id bigint NOT NULL DEFAULT nextval('order_import_id_seq'),  -- shared only by the orders of one import;
                                                                      -- an order that moves gets a new one, or
                                                                      -- that of its imported_place
    version integer NOT NULL DEFAULT 1,  -- 1, 2, 3, …: one more with each change
    created_at timestamptz NOT NULL,  -- both are written by a trigger, unless they are given
    updated_at timestamptz NOT NULL,
    rendered json NOT NULL,  -- the order as callers see it; see "How an order is rendered"
    format integer NOT NULL DEFAULT 1,  -- of rendered
    reference text,  -- the caller's own; unique among the orders that have one
    metadata jsonb NOT NULL DEFAULT '{}',  -- the caller's own: texts by keys
    status text NOT NULL DEFAULT 'booked',

    -- GUARANTEE 1: no two booked orders on a calendar are nearer than its spacing, even if written at the same time.
    --
    -- Two orders conflict if they have the same calendar, their ranges overlap, and their import_ids differ.
    -- The ranges are half-open: exactly the spacing apart is allowed, a millisecond less is not, either way. A
    -- cancelled order's range is empty, and overlaps none.
    -- Orders of one import share an import_id, so they may be closer to each other; no other order may be
    -- placed near them.
    CONSTRAINT orders_spacing EXCLUDE USING gist (
        calendar_id WITH =,
        tstzrange(datetime, clear_until) WITH &&,
        import_id WITH <>
    ),

    CONSTRAINT orders_datetime
        CHECK (datetime >= '1970-01-01T00:00:00Z' AND datetime < '2200-01-01T00:00:00Z'),
    -- To the millisecond, which is all that some clients keep. Computed in UTC, as clear_until is.
    CONSTRAINT orders_datetime_milliseconds
        CHECK (datetime AT TIME ZONE 'UTC' = date_trunc('milliseconds', datetime AT TIME ZONE 'UTC')),
    CONSTRAINT orders_totalfee CHECK (totalfee BETWEEN 0 AND 9999999999.99),
    CONSTRAINT orders_version CHECK (version >= 1),
    CONSTRAINT orders_services
        CHECK (cardinality(service_ids) BETWEEN 1 AND 50 AND cardinality(service_names) = cardinality(service_ids)),
    -- Without INVISIBLE_CHARACTERS (api/http/fields.py), as the names of services.
    CONSTRAINT orders_reference_text CHECK (
        length(reference) BETWEEN 1 AND 64 AND reference = btrim(reference)
        AND reference !~ '[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]'
    ),
    CONSTRAINT orders_metadata_object CHECK (
        jsonb_typeof(metadata) = 'object'
        AND NOT jsonb_path_exists(metadata, 'strict $.* ? (@.type() <> "string")')
    ),
    CONSTRAINT orders_status CHECK (status IN ('booked', 'cancelled')),
    CONSTRAINT orders_clear_until CHECK (clear_until >= datetime)
);
ALTER SEQUENCE orders_id_seq START WITH 1000000000000000 RESTART WITH 1000000000000000;

CREATE INDEX orders_by_datetime ON orders (datetime, id);
CREATE INDEX orders_by_calendar ON orders (calendar_id, datetime, id);
-- Without it, GET /orders?calendar=…&sort=id reads the orders of all calendars until a page is full: all of
-- them, for a calendar that has few or none.
CREATE INDEX orders_by_calendar_and_id ON orders (calendar_id, id);
CREATE UNIQUE INDEX orders_reference ON orders (reference) WHERE reference IS NOT NULL;
CREATE INDEX orders_by_creation ON orders (created_at, id);
CREATE INDEX orders_by_update ON orders (updated_at, id);
CREATE INDEX orders_cancelled_by_datetime ON orders (datetime, id) WHERE status = 'cancelled';
CREATE INDEX orders_cancelled_by_id ON orders (id) WHERE status = 'cancelled';

-- When several orders move at once, each leaves its place first (clear_until = datetime), so that they may swap. The
-- constraint judges where each one arrives; this judges, at the commit, that each has arrived. So with references.
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

-- The orders of each service, so that GET /orders?service=… costs the same however many orders there are. An
-- index on orders.service_ids would return them unsorted.
--
-- Written by: triggers of orders, below. Nothing else writes it.
CREATE TABLE ordered_service (
    service_id bigint NOT NULL,
    order_id bigint NOT NULL,
    datetime timestamptz NOT NULL,  -- the order's
    PRIMARY KEY (service_id, order_id)
);
CREATE UNIQUE INDEX ordered_service_by_datetime ON ordered_service (service_id, datetime, order_id);

CREATE FUNCTION keep_ordered_services() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        TRUNCATE ordered_service;
        RETURN NULL;
    END IF;
    DELETE FROM ordered_service WHERE order_id = OLD.id AND service_id = ANY(OLD.service_ids);
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO ordered_service (service_id, order_id, datetime)
        SELECT s.id, NEW.id, NEW.datetime FROM unnest(NEW.service_ids) AS s (id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER orders_forget_ordered_services AFTER DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION keep_ordered_services();
CREATE TRIGGER orders_move_ordered_services AFTER UPDATE ON orders FOR EACH ROW
    WHEN (NEW.datetime <> OLD.datetime OR NEW.service_ids <> OLD.service_ids)
    EXECUTE FUNCTION keep_ordered_services();
CREATE TRIGGER orders_empty_ordered_services AFTER TRUNCATE ON orders
    FOR EACH STATEMENT EXECUTE FUNCTION keep_ordered_services();

-- The orders that have a key and value in their metadata, for GET /orders?metadata[key]=value.
--
-- Written by: triggers of orders, below. Nothing else writes it.
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

CREATE FUNCTION remember_deleted_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO deleted_order (id, version) VALUES (OLD.id, OLD.version + 1)
    ON CONFLICT (id) DO UPDATE SET version = EXCLUDED.version;
    RETURN NULL;
END
$$;
CREATE TRIGGER orders_remember_deleted AFTER DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION remember_deleted_order();


-- =============================================================================================================
-- How an order is rendered: once, when it is written, so that one version of an order is the same bytes everywhere
-- =============================================================================================================

-- A time as callers see it: in UTC, with milliseconds, or with microseconds if it has any.
CREATE FUNCTION utc_text(at timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN regexp_replace(to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '000$', '') || 'Z';

-- An order as callers see it, in responses, exports and notifications; null if there is no such calendar. Only the
-- trigger below calls it, and the proof (worker/order_texts.py): everybody else reads orders.rendered.
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


-- The format of what order_json returns: part of an order's entity tag, so that one tag always means the same bytes.
--
-- A migration that changes order_json adds one to it, and then renders every order anew, some thousands in each
-- transaction: UPDATE orders SET format = order_format() WHERE format <> order_format() AND id BETWEEN …
CREATE FUNCTION order_format() RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 2;

CREATE FUNCTION render_order() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER orders_render BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION render_order();


-- =============================================================================================================
-- The change log
-- =============================================================================================================

-- Every committed change of an order.
--
-- State: a change is recorded without a position; once it is committed, the relay assigns the next one
-- (assign_positions), which is final.
--
-- Written by: the triggers of orders, below; positions by the relay. Old changes are deleted, from the beginning
-- of the log, by api/relay/retention.py.
--
-- Guarantees: 2 (the triggers) and 3 (position is unique and dense).
CREATE TABLE order_change (
    id bigserial PRIMARY KEY,  -- order of writing, with gaps and late commits: never read as a cursor
    position bigint UNIQUE,  -- 1, 2, 3, …; null: not assigned yet
    event_id uuid NOT NULL DEFAULT uuidv7(),  -- the notification's id
    type text NOT NULL DEFAULT '',
        -- 'order.created': order_state only
        -- 'order.updated', 'order.cancelled', 'order.reinstated': both states
        -- 'order.deleted': previous_state only
    order_id bigint NOT NULL,
    order_version integer NOT NULL,  -- the version that the change made; a deletion's is one more than the last
    calendar_id integer NOT NULL,
    previous_calendar_id integer,  -- where the order was before the change; null: it is new
    recorded_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    order_state json,  -- orders.rendered after the change
    previous_state json,  -- orders.rendered before the change
    actor text,  -- who made it: an API key's name, 'anyone' without keys, 'import', or 'operator' for SQL by hand;
                 -- null: recorded by a release that did not know it
    reason text,  -- why, if they said it
    traceparent text,  -- the trace of the request that made it, and the request's span in it (W3C Trace Context);
                       -- null: none was recorded

    CONSTRAINT order_change_states CHECK (
        (type = 'order.created' AND order_state IS NOT NULL AND previous_state IS NULL)
        OR (type IN ('order.updated', 'order.cancelled', 'order.reinstated')
            AND order_state IS NOT NULL AND previous_state IS NOT NULL)
        OR (type = 'order.deleted' AND order_state IS NULL AND previous_state IS NOT NULL)
    ),
    CONSTRAINT order_change_reason CHECK (length(reason) <= 200)
);
CREATE INDEX order_change_unassigned ON order_change (id) WHERE position IS NULL;
CREATE UNIQUE INDEX order_change_of_order ON order_change (order_id, order_version);

-- GUARANTEE 2: an order and its change are stored together or not at all. The triggers write the change in the
-- statement that writes the order, even one that is typed by hand.
--
-- The actor, the reason and the trace come from the settings oms.actor, oms.reason and oms.traceparent, which the
-- statement that writes the order sets for its transaction. All connections of the service have the application_name oms.
CREATE FUNCTION change_actor() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(
    nullif(current_setting('oms.actor', true), ''),
    CASE WHEN current_setting('application_name') <> 'oms' THEN 'operator' END
);
CREATE FUNCTION change_reason() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN nullif(current_setting('oms.reason', true), '');
CREATE FUNCTION change_traceparent() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN length(current_setting('oms.traceparent', true)) = 55 THEN current_setting('oms.traceparent', true)
END;

-- For creations, one trigger for all rows of a statement: an import stores a thousand orders in each.
CREATE FUNCTION record_order_creation() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER orders_record_creation AFTER INSERT ON orders REFERENCING NEW TABLE AS created
    FOR EACH STATEMENT EXECUTE FUNCTION record_order_creation();

CREATE FUNCTION record_order_change() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER orders_record_deletion AFTER DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION record_order_change();
-- An update that keeps the version only renders the order anew (render_order).
CREATE TRIGGER orders_record_update AFTER UPDATE ON orders
    FOR EACH ROW WHEN (NEW.version <> OLD.version) EXECUTE FUNCTION record_order_change();

-- One row: where the change log begins and ends.
--
-- GUARANTEE 3: positions have no gap and appear in order. A transaction that assigns positions or deletes old
-- changes locks this row first, so only one does either at a time.
--
-- Written by: assign_positions, which the relay calls (last_position); api/relay/retention.py (first_position);
-- api/relay/leadership.py (led_at).
CREATE TABLE change_log (
    id integer PRIMARY KEY DEFAULT 1,
    last_position bigint NOT NULL DEFAULT 0,  -- the newest that is assigned; 0: no position is yet
    first_position bigint NOT NULL DEFAULT 1,  -- the oldest that is retained; in an empty log, the next one
    led_at timestamptz,  -- when a relay last worked, to 2 s; null: none has yet

    CONSTRAINT change_log_one_row CHECK (id = 1)
);
INSERT INTO change_log (id, last_position, first_position) VALUES (1, 0, 1);

-- Assigns the next positions to committed changes that have none; returns how many. If there are none it takes no lock.
--
-- Several statements on purpose: those after the lock take their snapshots while it is held, so they see everything
-- that another assigner committed. In the order of id a change comes after every change it depends on: it was recorded after those
-- had committed (earlier versions of the same order; the deletion of an order whose time it takes).
--
-- waiting is ordered, so that PostgreSQL uses the index and never reads the whole table. The update has no join: if
-- the table was analyzed while most of these changes were not committed yet, PostgreSQL plans as if it were empty, and
-- would search all waiting changes for each change. It computes each position by binary search instead, and EXECUTE
-- plans it for these ids, so that it reads each change by the index.
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

-- The progress of each consumer of changes: everything up to position is applied, nothing after it.
--
-- GUARANTEE 4: each change is applied once, however often Redis delivers it or loses it. A consumer applies a
-- batch and moves its cursor in one transaction; the relay publishes again from here.
--
-- Written by: the worker (shared/change_log.py, move_cursor).
CREATE TABLE consumer_cursor (
    consumer text PRIMARY KEY DEFAULT '',
        -- 'fee_summaries': worker/fee_summaries/consumer.py
        -- 'webhook_deliveries': worker/webhooks/fan_out.py
    position bigint NOT NULL DEFAULT 0,
    moved_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);
INSERT INTO consumer_cursor (consumer, position) VALUES ('fee_summaries', 0), ('webhook_deliveries', 0);


-- =============================================================================================================
-- Fee summaries
-- =============================================================================================================

-- How an order's fee is divided: equally among its services; each cent that is left over goes to another service,
-- the lowest ids first, so that the shares always add up to the fee. Service 0 stands for the order as a whole.
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

-- What one state of an order adds to the fee summaries: a row for the order and a row per service. A change
-- subtracts the effects of its previous_state and adds those of its order_state. A cancelled order adds nothing. One
-- SELECT, so that PostgreSQL can inline it; with OFFSET 0, which makes PostgreSQL read the state once, not once for each value.
CREATE FUNCTION fee_effects(state json, zone text)
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

-- How many orders of a day contribute a given share of their fee to a service. Stored per share, not as one sum,
-- so that the smallest and the largest stay exact when orders are deleted. With three hours between them,
-- a calendar holds at most eight orders a day: one sum would save little.
--
-- GUARANTEE 5: at the position of the cursor 'fee_summaries', the rows of the current generation match
-- the orders exactly. They change only in the transaction that moves the cursor, or that swaps generations.
--
-- Written by: worker/fee_summaries/consumer.py (the current generation); worker/fee_summaries/rebuild.py (the next
-- one; it also deletes earlier ones).
CREATE TABLE fee_summary (
    id bigserial PRIMARY KEY,
    generation integer NOT NULL,  -- see fee_summary_state; rows of others are being built or deleted
    day date NOT NULL,  -- in fee_summary_state.time_zone
    calendar_id integer NOT NULL,
    service_id bigint NOT NULL,  -- 0: the order as a whole
    share numeric(12, 2) NOT NULL,
    orders integer NOT NULL,  -- never 0: such a row is deleted

    CONSTRAINT fee_summary_orders CHECK (orders > 0)
);
CREATE UNIQUE INDEX fee_summary_key ON fee_summary (generation, day, calendar_id, service_id, share);

-- One row: which generation of fee summaries is read. It changes only while the consumer's cursor is locked.
--
-- State: a rebuild takes the next number as building, writes that generation beside the current one, and makes
-- it the current one in one transaction (worker/fee_summaries/rebuild.py).
--
-- Written by: worker/fee_summaries/rebuild.py; worker/fee_summaries/consumer.py (time_zone, while there are no
-- rows).
CREATE TABLE fee_summary_state (
    id integer PRIMARY KEY CHECK (id = 1),
    generation integer NOT NULL,  -- of the rows that are read and kept up to date
    building integer NOT NULL,  -- the highest number taken so far: the latest rebuild's
    time_zone text NOT NULL  -- whose days are counted
);
-- The migration inserts the time zone of the setting OMS_TIME_ZONE, which is UTC unless set.
INSERT INTO fee_summary_state (id, generation, building, time_zone) VALUES (1, 1, 1, 'UTC');

-- When the fee summaries reached each position, as far back as figures can be requested for
-- (api/fee_summaries/positions.py): later pages of a report state the same time as the first.
--
-- Written by: worker/fee_summaries/consumer.py, which also deletes rows that are too far back.
CREATE TABLE fee_summary_step (
    position bigint PRIMARY KEY,
    moved_at timestamptz NOT NULL
);
INSERT INTO fee_summary_step (position, moved_at)
SELECT position, moved_at FROM consumer_cursor WHERE consumer = 'fee_summaries';

-- One row: the last proof of the fee summaries against the orders.
--
-- Guarantee 5 is proved here, once a day and on demand.
--
-- Written by: api/relay/scheduler.py (asked_at); worker/fee_summaries/proof.py (everything else).
CREATE TABLE fee_summary_proof (
    id integer PRIMARY KEY CHECK (id = 1),
    asked_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,  -- when the relay last requested one; until then,
                                                              -- installation time: the first is due a day later
    finished_at timestamptz,  -- null: no proof has finished yet
    position bigint,  -- the position that was proved
    orders bigint,  -- how many orders were counted again
    differing bigint,  -- rows that did not match the orders: 0 unless something is broken
    seconds double precision  -- how long it took
);
INSERT INTO fee_summary_proof (id) VALUES (1);


-- =============================================================================================================
-- Webhooks
-- =============================================================================================================

-- Subscribers to whom changes are posted.
--
-- States: enabled (disabled_at is null), disabled, deleted (deleted_at is set).
--   enabled → disabled   reason 'caller': PATCH (api/webhooks/commands.py)
--                        reason 'gone' or 'failing': an attempt (worker/webhooks/outcomes.py)
--   disabled → enabled   PATCH (api/webhooks/commands.py)
--   any → deleted        DELETE (api/webhooks/commands.py); api/relay/retention.py deletes the rows later
--
-- Written by: api/webhooks/commands.py; worker/webhooks/attempts.py (leases); worker/webhooks/outcomes.py
-- (failures).
CREATE TABLE webhook (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    url text NOT NULL,
    types text[] NOT NULL,  -- of notifications; empty: every change of an order
    calendars text[] NOT NULL,  -- names; empty: all. Names of calendars that don't exist yet are allowed
    description text NOT NULL,
    starts_after bigint NOT NULL,  -- only changes after this position are sent
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    disabled_at timestamptz,  -- since when nothing is sent to it
    disabled_reason text,
        -- 'caller'   a caller disabled it
        -- 'gone'     it answered 410
        -- 'failing'  its attempts failed for too long
    failing_since timestamptz,  -- the first failure since its last success
    last_failure_at timestamptz,
    deleted_at timestamptz,
    lease uuid,  -- of the task that serves it now: one at a time, so deliveries are sent in order
    leased_until timestamptz,  -- from then on another task may serve it: the first was killed
    served_at timestamptz,  -- the webhook that has waited longest is served next

    CONSTRAINT webhook_disabled CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL)),
    CONSTRAINT webhook_disabled_reason CHECK (disabled_reason IN ('caller', 'gone', 'failing'))
);

-- Secrets that sign a webhook's deliveries. Signing needs the secret itself, so it is not hashed, but encrypted where
-- OMS_SECRET_KEY is set (shared/secret_keys.py).
--
-- State: current while valid_until is null; a rotation sets it, and until then both secrets sign.
--
-- Written by: api/webhooks/commands.py; api/operations/secret_key_rotation.py.
CREATE TABLE webhook_secret (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    webhook_id bigint NOT NULL REFERENCES webhook ON DELETE CASCADE,
    secret text NOT NULL,  -- whsec_ and 32 bytes in base64; encrypted: enc1:key:data
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    valid_until timestamptz  -- null: the current one
);
CREATE UNIQUE INDEX webhook_secret_current ON webhook_secret (webhook_id) WHERE valid_until IS NULL;

-- Whether a webhook asks for a change: decided here and nowhere else. A change that moves an order to another
-- calendar concerns both.
CREATE FUNCTION webhook_wants(w webhook, c order_change) RETURNS boolean LANGUAGE sql STABLE
RETURN c.position > w.starts_after
    AND (cardinality(w.types) = 0 OR c.type = ANY (w.types))
    AND (cardinality(w.calendars) = 0 OR EXISTS (
        SELECT FROM calendar AS k
        WHERE k.id IN (c.calendar_id, c.previous_calendar_id) AND k.name = ANY (w.calendars)
    ));

-- A notification for a webhook, and what happened to it. If a change that the consumer has applied has no row, the
-- webhook did not ask for it.
--
-- Written by: worker/webhooks/fan_out.py (one for each change and webhook that asks for it);
-- worker/webhooks/outcomes.py (outcomes, announcements); api/webhooks/commands.py (tests, replays). Old ones are
-- deleted by api/relay/retention.py.
--
-- Guarantee 4: a delivery that is due stays due here until an attempt succeeds, whatever happens to Redis.
CREATE TABLE webhook_delivery (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    webhook_id bigint NOT NULL REFERENCES webhook ON DELETE CASCADE,
    position bigint,  -- of the change; null: a test or an announcement
    event_id uuid NOT NULL,  -- the notification's id: the header webhook-id, the same at every attempt
    type text NOT NULL,  -- the notification's type: order.…, webhook.test or webhook.disabled
    order_id bigint,
    payload text,  -- the notification, unless it is of a change: then it is encoded from the change log
    state text NOT NULL,
        -- 'pending'    not attempted yet in this round; created by the consumer, a test or an announcement. The
        --              first attempt changes it
        -- 'retrying'   an attempt failed, another follows, which changes it
        -- 'delivered'  answered 2xx. Final, unless a replay from a position sends it again
        -- 'exhausted'  every attempt failed. Final, unless replayed
        -- 'disabled'   its webhook was disabled or deleted before it was delivered. Final, unless replayed
        --
        -- Attempts: worker/webhooks/outcomes.py. 'disabled': also worker/webhooks/fan_out.py, for a webhook that
        -- is disabled when the change arrives, and api/webhooks/commands.py. A replay (api/webhooks/commands.py)
        -- makes it 'pending' in a new round.
    round integer NOT NULL DEFAULT 1,  -- one more with each replay: attempts of earlier rounds don't count
    attempts integer NOT NULL DEFAULT 0,  -- that ended, in this round
    next_attempt_at timestamptz,  -- null: no attempt follows
    acknowledged_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT webhook_delivery_state
        CHECK (state IN ('pending', 'retrying', 'delivered', 'exhausted', 'disabled')),
    CONSTRAINT webhook_delivery_due CHECK ((next_attempt_at IS NOT NULL) = (state IN ('pending', 'retrying'))),
    CONSTRAINT webhook_delivery_acknowledged CHECK ((acknowledged_at IS NOT NULL) = (state = 'delivered')),
    CONSTRAINT webhook_delivery_payload CHECK ((position IS NULL) = (payload IS NOT NULL))
);
CREATE UNIQUE INDEX webhook_delivery_of_change ON webhook_delivery (webhook_id, position);
CREATE INDEX webhook_delivery_due ON webhook_delivery (webhook_id, next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX webhook_delivery_next ON webhook_delivery (webhook_id, position NULLS FIRST, id)
    WHERE next_attempt_at IS NOT NULL;
CREATE INDEX webhook_delivery_missed ON webhook_delivery (webhook_id, position) WHERE state <> 'delivered';
CREATE INDEX webhook_delivery_newest ON webhook_delivery (webhook_id, id);
CREATE INDEX webhook_delivery_by_position ON webhook_delivery (position);

-- Attempts at deliveries.
--
-- States: begun (latency_ms is null), ended. An attempt is stored before anything is sent, so one whose worker
-- was killed stays begun.
--
-- Written by: worker/webhooks/attempts.py (begun); worker/webhooks/outcomes.py (ended).
CREATE TABLE webhook_attempt (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    delivery_id bigint NOT NULL REFERENCES webhook_delivery ON DELETE CASCADE,
    started_at timestamptz NOT NULL,
    latency_ms integer,  -- null: it has not ended, or its worker was killed
    status integer,  -- of the response; null: there was none
    answer text NOT NULL,  -- the first 2 KB of the response's body
    error text  -- why it does not count as delivered; null: it does
);
CREATE INDEX webhook_attempt_of_delivery ON webhook_attempt (delivery_id, id);


-- =============================================================================================================
-- Idempotency keys
-- =============================================================================================================

-- Keys that callers sent, each with the response to the request that first used it.
--
-- GUARANTEE 6: a create that is repeated with its key stores one order. The key is stored in the transaction that
-- stores the order, and locked before (IDEMPOTENCY_KEY_LOCK): a repeat waits for that transaction, and then reads the
-- stored response. The primary key holds what the lock alone would not.
--
-- State: most are stored with their response. In a create of several statements, claimed (answer is '') until it stores
-- its response; others see it only then.
--
-- Written by: api/http/idempotency_keys.py; api/operations/secret_key_rotation.py; deleted after 24 hours by api/relay/retention.py, or with a webhook
-- whose secret the response contains (api/webhooks/commands.py).
CREATE TABLE idempotency_key (
    caller text NOT NULL,  -- the API key's name: each caller has keys of its own
    operation text NOT NULL,  -- each operation too
    key text NOT NULL,
    fingerprint bytea NOT NULL,  -- of the request's content: the same key with other content is refused
    answer text NOT NULL,  -- JSON; encrypted: {"encrypted":"enc1:key:data","id":…} (api/http/stored_answers.py)
    created_at timestamptz NOT NULL DEFAULT now(),
    format integer NOT NULL DEFAULT 1,  -- orders.format of the order in the answer
    PRIMARY KEY (caller, operation, key)
);
CREATE INDEX idempotency_key_by_age ON idempotency_key (created_at);


-- =============================================================================================================
-- API keys
-- =============================================================================================================

-- Keys that are made while the service runs; those of OMS_API_KEYS are not here. Each process reads all keys in use,
-- at most once a second (api/http/stored_keys.py).
--
-- State: in use while revoked_at is null, though it may have expired. The row of a revoked key is kept: while there
-- is a row, keys are asked for, so revoking the last key opens nothing.
--
-- Written by: api/keys/commands.py; api/http/stored_keys.py (last_used_at).
CREATE TABLE api_key (
    id text PRIMARY KEY,  -- random, and a part of the key's text
    name text NOT NULL,  -- the actor of the changes that are made with it
    scopes text[] NOT NULL,
    secret_hash bytea NOT NULL,  -- SHA-256 of the whole text. It is random, so there is nothing to guess: no salt
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    expires_at timestamptz,
    last_used_at timestamptz,  -- to the minute
    revoked_at timestamptz,

    CONSTRAINT api_key_id CHECK (id ~ '^[0-9A-Za-z]{1,32}$'),
    CONSTRAINT api_key_name CHECK (name ~ '^[A-Za-z0-9._-]{1,64}$'),
    CONSTRAINT api_key_scopes CHECK (
        cardinality(scopes) > 0 AND scopes <@ ARRAY[
            'orders:read', 'orders:write', 'changes:read', 'summaries:read', 'webhooks:manage', 'services:manage',
            'keys:manage'
        ]
    ),
    CONSTRAINT api_key_secret_hash CHECK (length(secret_hash) = 32)
);
CREATE UNIQUE INDEX api_key_name_in_use ON api_key (name) WHERE revoked_at IS NULL;

-- Secrets that a rotation replaced, and that are accepted for a while beside the new one.
--
-- Written by: api/keys/commands.py.
CREATE TABLE api_key_old_secret (
    key_id text NOT NULL REFERENCES api_key ON DELETE CASCADE,
    secret_hash bytea NOT NULL,
    valid_until timestamptz NOT NULL,
    PRIMARY KEY (key_id, secret_hash)
);


-- =============================================================================================================
-- Tickets for the live stream
-- =============================================================================================================

-- What a browser sends in the URL of the stream, as it can't send a header there. Who made it: with a key of this
-- database (key_id, key_hash), with a token of the identity provider (token_ends_at), or else with a key of the
-- settings or, where none are asked for, without one.
--
-- State: valid until expires_at, then deleted by the relay. Whether the creator may still follow the changes is
-- checked whenever a ticket is used, and while the stream lasts.
--
-- Written by: api/http/stream_tickets.py; api/relay/retention.py (deletes).
CREATE TABLE stream_ticket (
    hash bytea PRIMARY KEY,  -- SHA-256 of the ticket. It is random, so there is nothing to guess: no salt
    caller text NOT NULL,
    key_id text,  -- no foreign key: a revoked key is found when the ticket is used
    key_hash bytea,  -- of the one of the key's secrets that was used: rotating it ends streams as revoking it does
    token_ends_at timestamptz,
    expires_at timestamptz NOT NULL,

    CONSTRAINT stream_ticket_hash CHECK (length(hash) = 32),
    CONSTRAINT stream_ticket_key CHECK ((key_id IS NULL) = (key_hash IS NULL))
);
CREATE INDEX stream_ticket_by_expiry ON stream_ticket (expires_at);


-- =============================================================================================================
-- Cells
-- =============================================================================================================

-- One row, or none: the cell that this installation is, one of several that divide a company's calendars. From then
-- on orders and services get ids from number x 10^15 on, and changes have the source /cells/NAME/orders. Never changed.
--
-- Written by: shared/database/stored_cell.py (store_cell), after the migrations that first run with OMS_CELL.
CREATE TABLE cell (
    id integer PRIMARY KEY CHECK (id = 1),
    name text NOT NULL,
    number integer NOT NULL,
    starts_after bigint NOT NULL,  -- changes up to this position keep the source /orders, as subscribers have read them
    stored_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT cell_name CHECK (name ~ '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$' AND length(name) <= 32),
    CONSTRAINT cell_number CHECK (number BETWEEN 1 AND 99)
);


-- =============================================================================================================
-- Releases
-- =============================================================================================================

-- Releases that have this migration work on the schema, however many later migrations they do not know: each of those
-- only adds. A migration that takes something away replaces the function, and names the migration of the release that
-- stopped using it (CONTRIBUTING.md, "Changing the schema").
--
-- Read by: shared/database/migrate.py.
CREATE FUNCTION oldest_compatible_migration() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '2026-11-29T13:20:00:000000';
