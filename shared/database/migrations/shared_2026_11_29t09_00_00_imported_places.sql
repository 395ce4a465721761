-- Where imported orders came from, so that one that was moved or deleted can return there; and which ids were
-- deleted, at which version, so that a deleted order that is imported again continues its versions.
-- How the schema is today: shared/database/schema.sql.

CREATE TABLE imported_place (
    order_id bigint NOT NULL,
    calendar_id integer NOT NULL,
    datetime timestamptz NOT NULL,
    import_id bigint NOT NULL,
    PRIMARY KEY (order_id, calendar_id, datetime)
);

-- Orders that have moved since they were imported have another import_id, and their places are not known.
INSERT INTO imported_place (order_id, calendar_id, datetime, import_id)
SELECT o.id, o.calendar_id, o.datetime, o.import_id FROM orders AS o JOIN order_import AS i ON i.id = o.import_id;

CREATE TABLE deleted_order (
    id bigint PRIMARY KEY,
    version integer NOT NULL
);

INSERT INTO deleted_order (id, version)
SELECT order_id, max(order_version) FROM order_change WHERE type = 'order.deleted' GROUP BY order_id;

CREATE FUNCTION remember_deleted_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO deleted_order (id, version) VALUES (OLD.id, OLD.version + 1)
    ON CONFLICT (id) DO UPDATE SET version = EXCLUDED.version;
    RETURN NULL;
END
$$;
CREATE TRIGGER orders_remember_deleted AFTER DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION remember_deleted_order();
