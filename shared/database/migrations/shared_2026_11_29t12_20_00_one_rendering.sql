-- All orders have their text: changes copy it, and the statement of an import writes its changes all at once.

-- Not one LOCK TABLE: it would wait behind a long export, and every request behind it. The first only waits for a
-- vacuum, while requests are served; PostgreSQL cancels an automatic one for it.
SET LOCAL statement_timeout = 0;
LOCK TABLE orders, calendar IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = '300ms';
DO $$
BEGIN
    LOOP
        BEGIN
            LOCK TABLE orders, calendar IN ACCESS EXCLUSIVE MODE;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.2);
        END;
    END LOOP;
END
$$;

-- PostgreSQL does not read the table for it, because the CHECK says the same.
ALTER TABLE orders ALTER COLUMN rendered SET NOT NULL;
ALTER TABLE orders DROP CONSTRAINT orders_rendered;


-- ---- one trigger for all orders that a statement creates

DROP TRIGGER orders_record_change ON orders;
DROP TRIGGER orders_record_update ON orders;
DROP TRIGGER orders_keep_ordered_services ON orders;
DROP TRIGGER orders_move_ordered_services ON orders;
DROP TRIGGER orders_forget_ordered_services ON orders;
DROP FUNCTION record_order_change();
DROP FUNCTION keep_ordered_services();

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

CREATE FUNCTION record_order_creation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO order_change (type, order_id, order_version, calendar_id, recorded_at, order_state)
    SELECT 'order.created', id, version, calendar_id, now(), rendered FROM created;
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
        order_state, previous_state
    ) VALUES (
        CASE TG_OP WHEN 'UPDATE' THEN 'order.updated' ELSE 'order.deleted' END,
        OLD.id,
        coalesce(NEW.version, OLD.version + 1),
        coalesce(NEW.calendar_id, OLD.calendar_id),
        OLD.calendar_id,
        now(),
        NEW.rendered,
        OLD.rendered
    );
    RETURN NULL;
END
$$;
CREATE TRIGGER orders_record_deletion AFTER DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION record_order_change();
-- An update that keeps the version only renders the order anew (render_order).
CREATE TRIGGER orders_record_update AFTER UPDATE ON orders
    FOR EACH ROW WHEN (NEW.version <> OLD.version) EXECUTE FUNCTION record_order_change();
