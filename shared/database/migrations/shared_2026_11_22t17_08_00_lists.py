"""Lists whose pages cost the same however many orders there are: a calendar's by id, a service's both ways."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from shared.database.rows import rows

ID = "2026-11-22T17:08:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "a calendar's orders by id, a service's orders by datetime and by id"

STATEMENTS = (
    # Without it, GET /orders?calendar=…&sort=id reads orders of all calendars until it has found a page: all
    # of them, 24,000 pages of memory among a million orders, for a calendar that has few or none.
    "CREATE INDEX orders_by_calendar_and_id ON orders (calendar_id, id)",
    # An index on an array gives a service's orders in no order, so its pages were sorted out of all of them,
    # or looked for among everybody's, whichever PostgreSQL guessed to be less; a service that is rare, or
    # common only lately, was guessed wrong, and then cost as much as a calendar above.
    "DROP INDEX orders_by_service",
    """
    CREATE TABLE ordered_service (
        service_id bigint NOT NULL,
        order_id bigint NOT NULL,
        datetime timestamptz NOT NULL,
        PRIMARY KEY (service_id, order_id)
    )
    """,
    """
    INSERT INTO ordered_service (service_id, order_id, datetime)
    SELECT s.id, o.id, o.datetime FROM orders AS o, unnest(o.service_ids) AS s (id)
    """,
    "CREATE UNIQUE INDEX ordered_service_by_datetime ON ordered_service (service_id, datetime, order_id)",
    """
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
    $$
    """,
    """
    CREATE TRIGGER orders_keep_ordered_services AFTER INSERT OR DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION keep_ordered_services()
    """,
    """
    CREATE TRIGGER orders_move_ordered_services AFTER UPDATE ON orders FOR EACH ROW
    WHEN (NEW.datetime <> OLD.datetime OR NEW.service_ids <> OLD.service_ids)
    EXECUTE FUNCTION keep_ordered_services()
    """,
    """
    CREATE TRIGGER orders_forget_ordered_services AFTER TRUNCATE ON orders
    FOR EACH STATEMENT EXECUTE FUNCTION keep_ordered_services()
    """,
)


async def _apply() -> None:
    for statement in STATEMENTS:
        await rows(statement)


async def forwards() -> MigrationManager:
    """Apply every statement, in the migration's own transaction."""
    manager = MigrationManager(migration_id=ID, app_name="shared", description=DESCRIPTION)
    manager.add_raw(_apply)
    return manager
