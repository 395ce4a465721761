-- Every order's text is stored with the order, by a trigger. Piccolo adds the columns after this file, in the same
-- transaction; orders that exist get their text from the next migration.

-- Not one LOCK TABLE: it would wait behind a long export, and every request behind it. The first only waits for a
-- vacuum, while requests are served; PostgreSQL cancels an automatic one for it.
SET LOCAL statement_timeout = 0;
LOCK TABLE idempotency_key, orders, calendar IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = '300ms';
DO $$
BEGIN
    LOOP
        BEGIN
            LOCK TABLE idempotency_key, orders, calendar IN ACCESS EXCLUSIVE MODE;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.2);
        END;
    END LOOP;
END
$$;


-- ---- calendars: their names, which are in the texts of their orders, are final

CREATE FUNCTION refuse_calendar_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'calendar % can''t be renamed or deleted: its orders'' texts have its name', OLD.id;
END
$$;
CREATE TRIGGER calendar_is_final BEFORE UPDATE OF id, name OR DELETE ON calendar
    FOR EACH ROW EXECUTE FUNCTION refuse_calendar_change();

-- TRUNCATE fires no trigger of rows.
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

-- The text's trigger checks the calendar from now on. A foreign key locks the calendar's row in every create.
ALTER TABLE orders DROP CONSTRAINT orders_calendar_id_fkey;


-- ---- orders: rendered when they are written

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
            o.version AS version,
            utc_text(o.created_at) AS created_at,
            utc_text(o.updated_at) AS updated_at
        FROM calendar AS c WHERE c.id = o.calendar_id
    ) AS shown
);

CREATE FUNCTION order_format() RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 1;

CREATE FUNCTION render_order() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    anew orders;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.version = OLD.version THEN
        -- Not a change of the order: it is rendered anew, or nothing happens.
        anew := OLD;
        anew.format := NEW.format;
        anew.clear_until := NEW.clear_until;  -- it is computed after this trigger, and null until then
        IF NEW *<> anew THEN  -- byte by byte: json has no equality
            RAISE EXCEPTION 'an update of order % must add one to its version', OLD.id;
        END IF;
    END IF;
    NEW.format := order_format();
    NEW.rendered := order_json(NEW);
    IF NEW.rendered IS NULL THEN
        RAISE EXCEPTION 'there is no calendar %', NEW.calendar_id USING ERRCODE = 'foreign_key_violation';
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.version = OLD.version AND NEW.format = OLD.format
        AND NEW.rendered::text <> OLD.rendered::text
    THEN
        RAISE EXCEPTION 'order_json was changed, and order_format was not: one entity tag would mean two texts';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER orders_render BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION render_order();

-- An update that keeps the version is none of the order: it is rendered anew.
DROP TRIGGER orders_record_change ON orders;
CREATE TRIGGER orders_record_change AFTER INSERT OR DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION record_order_change();
CREATE TRIGGER orders_record_update AFTER UPDATE ON orders
    FOR EACH ROW WHEN (NEW.version <> OLD.version) EXECUTE FUNCTION record_order_change();


-- ---- a repeated create answers with the text that the order had, and with that text's entity tag

ALTER TABLE idempotency_key ADD COLUMN format integer NOT NULL DEFAULT 1;
