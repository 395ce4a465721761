"""What Piccolo can't express: the 3-hour rule, bounds, the change log's trigger, and the rule of division.

Bounds stand here again, behind the API's own, because asyncpg stores some numbers it can't hold as 0 and
a year beyond 9999 makes a row unreadable.
"""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from shared.database.rows import rows

ID = "2026-11-22T15:33:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "the rule, bounds, the change log's trigger, the division of fees"

STATEMENTS = (
    "CREATE EXTENSION IF NOT EXISTS btree_gist",
    # ---- ids. The server's begin where the callers' end, so that they never meet.
    "ALTER SEQUENCE orders_id_seq START WITH 1000000000000 RESTART WITH 1000000000000",
    "ALTER SEQUENCE service_id_seq START WITH 1000000000000 RESTART WITH 1000000000000",
    "ALTER TABLE claimed_order_id ADD CONSTRAINT claimed_order_id_by_caller CHECK (id BETWEEN 1 AND 999999999999)",
    "CREATE SEQUENCE order_import_id_seq",
    "ALTER TABLE orders ALTER COLUMN import_id SET DEFAULT nextval('order_import_id_seq')",
    "ALTER TABLE order_import ALTER COLUMN id SET DEFAULT nextval('order_import_id_seq')",
    # ---- calendars and services
    "ALTER TABLE calendar ADD CONSTRAINT calendar_name CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' AND length(name) <= 64)",
    "ALTER TABLE service ADD CONSTRAINT service_name_length CHECK (length(name) BETWEEN 1 AND 100)",
    "CREATE UNIQUE INDEX service_name_in_use ON service (lower(name)) WHERE archived_at IS NULL",
    # ---- the 3-hour rule. Half-open ranges: exactly three hours apart is allowed. Orders of one import
    # (the sample's three share one datetime) may stand together; nothing else may be placed near them.
    """
    ALTER TABLE orders ADD CONSTRAINT orders_spacing EXCLUDE USING gist (
        calendar_id WITH =,
        tstzrange(datetime, clear_until) WITH &&,
        import_id WITH <>
    )
    """,
    "ALTER TABLE orders ADD CONSTRAINT orders_clear_until CHECK (clear_until = datetime + interval '3 hours')",
    """
    ALTER TABLE orders ADD CONSTRAINT orders_datetime
    CHECK (datetime >= '1970-01-01T00:00:00Z' AND datetime < '2200-01-01T00:00:00Z')
    """,
    "ALTER TABLE orders ADD CONSTRAINT orders_totalfee CHECK (totalfee BETWEEN 0 AND 9999999999.99)",
    "ALTER TABLE orders ADD CONSTRAINT orders_version CHECK (version >= 1)",
    """
    ALTER TABLE orders ADD CONSTRAINT orders_services CHECK (
        cardinality(service_ids) BETWEEN 1 AND 50 AND cardinality(service_names) = cardinality(service_ids)
    )
    """,
    "CREATE INDEX orders_by_datetime ON orders (datetime, id)",
    "CREATE INDEX orders_by_calendar ON orders (calendar_id, datetime, id)",
    # ---- how an order looks: rendered in one place, for GET, lists and notifications alike, so that the
    # same version of an order is the same bytes everywhere.
    r"""
    CREATE FUNCTION utc_text(at timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    RETURN regexp_replace(to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '000$', '') || 'Z'
    """,
    """
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
    )
    """,
    # ---- the change log
    """
    ALTER TABLE order_change ADD CONSTRAINT order_change_states CHECK (
        (type = 'order.created' AND order_state IS NOT NULL AND previous_state IS NULL)
        OR (type = 'order.updated' AND order_state IS NOT NULL AND previous_state IS NOT NULL)
        OR (type = 'order.deleted' AND order_state IS NULL AND previous_state IS NOT NULL)
    )
    """,
    "ALTER TABLE order_change ALTER COLUMN event_id SET DEFAULT uuidv7()",
    "CREATE INDEX order_change_unassigned ON order_change (id) WHERE position IS NULL",
    "CREATE UNIQUE INDEX order_change_of_order ON order_change (order_id, order_version)",
    "INSERT INTO change_log (id, last_position) VALUES (1, 0) ON CONFLICT DO NOTHING",
    "ALTER TABLE change_log ADD CONSTRAINT change_log_one_row CHECK (id = 1)",
    # An order can't be written, by whatever path, without its change: they are one statement, so they
    # commit together or not at all. A change of the version tells that an update is a change.
    """
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
    $$
    """,
    """
    CREATE TRIGGER orders_record_change AFTER INSERT OR UPDATE OR DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION record_order_change()
    """,
    # ---- fee summaries: a fee is divided equally over the order's services, to the cent; the first
    # services by id take the odd cents, so the shares always add up to the fee. Service 0: the whole.
    """
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
    END
    """,
    """
    CREATE UNIQUE INDEX fee_summary_key ON fee_summary (day, calendar_id, service_id, share)
    """,
    "ALTER TABLE fee_summary ADD CONSTRAINT fee_summary_orders CHECK (orders > 0)",
    "INSERT INTO consumer_cursor (consumer, position) VALUES ('fee_summaries', 0) ON CONFLICT DO NOTHING",
)


async def _apply() -> None:
    for statement in STATEMENTS:
        await rows(statement)


async def forwards() -> MigrationManager:
    """Apply every statement, in the migration's own transaction."""
    manager = MigrationManager(migration_id=ID, app_name="shared", description=DESCRIPTION)
    manager.add_raw(_apply)
    return manager
