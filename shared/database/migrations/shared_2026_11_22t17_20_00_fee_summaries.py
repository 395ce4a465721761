"""Fee summaries: generations, so that they can be rebuilt while they are read; their zone; what proves them."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from shared.database.rows import rows
from shared.settings import settings

ID = "2026-11-22T17:20:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "fee summaries: generations, time zone, steps, proofs"

STATEMENTS = (
    # ---- generations: a rebuild writes rows of the next one, which nobody sees until it is the current one.
    "ALTER TABLE fee_summary ADD COLUMN generation integer NOT NULL DEFAULT 1",
    "ALTER TABLE fee_summary ALTER COLUMN generation DROP DEFAULT",
    "DROP INDEX fee_summary_key",
    "CREATE UNIQUE INDEX fee_summary_key ON fee_summary (generation, day, calendar_id, service_id, share)",
    """
    CREATE TABLE fee_summary_state (
        id integer PRIMARY KEY CHECK (id = 1),
        generation integer NOT NULL,
        building integer NOT NULL,
        time_zone text NOT NULL
    )
    """,
    # ---- when the summaries got to which position: a page that is read later still names its own time. Kept
    # as far back as figures can be given for, see api/fee_summaries/positions.py.
    """
    CREATE TABLE fee_summary_step (
        position bigint PRIMARY KEY,
        moved_at timestamptz NOT NULL
    )
    """,
    "INSERT INTO fee_summary_step SELECT position, moved_at FROM consumer_cursor WHERE consumer = 'fee_summaries'",
    # ---- the last proof, and when the next one was asked for. The first is due a day after the installation.
    """
    CREATE TABLE fee_summary_proof (
        id integer PRIMARY KEY CHECK (id = 1),
        asked_at timestamptz NOT NULL DEFAULT now(),
        finished_at timestamptz,
        position bigint,
        orders bigint,
        differing bigint,
        seconds double precision
    )
    """,
    "INSERT INTO fee_summary_proof (id) VALUES (1)",
    # ---- what one state of an order, as a change carries it, counts under: one row for the whole order
    # (service 0) and one for each of its services. One SELECT, so that PostgreSQL can inline it.
    """
    CREATE FUNCTION fee_effects(state json, zone text)
    RETURNS TABLE (day date, calendar text, service_id bigint, share numeric)
    LANGUAGE sql STABLE PARALLEL SAFE
    BEGIN ATOMIC
        SELECT
            ((state ->> 'datetime')::timestamptz AT TIME ZONE zone)::date, state ->> 'calendar',
            s.service_id, s.share
        FROM fee_shares(
            (state ->> 'totalfee')::numeric,
            ARRAY(SELECT (o ->> 'id')::bigint FROM json_array_elements(state -> 'services') AS o)
        ) AS s;
    END
    """,
)


async def _apply() -> None:
    for statement in STATEMENTS:
        await rows(statement)
    # What is there already was made by the version before, which counted in the days of the same setting.
    await rows(
        "INSERT INTO fee_summary_state (id, generation, building, time_zone) VALUES (1, 1, 1, $1)", settings().time_zone
    )


async def forwards() -> MigrationManager:
    """Apply every statement, in the migration's own transaction."""
    manager = MigrationManager(migration_id=ID, app_name="shared", description=DESCRIPTION)
    manager.add_raw(_apply)
    return manager
