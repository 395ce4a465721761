"""Idempotency keys, and an index for orders of a service."""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from shared.database.rows import rows

ID = "2026-11-22T16:10:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "idempotency keys; orders by service"

STATEMENTS = (
    """
    CREATE TABLE idempotency_key (
        caller text NOT NULL,
        operation text NOT NULL,
        key text NOT NULL,
        fingerprint bytea NOT NULL,
        answer text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (caller, operation, key)
    )
    """,
    "CREATE INDEX idempotency_key_by_age ON idempotency_key (created_at)",
    "CREATE INDEX orders_by_service ON orders USING gin (service_ids) WITH (fastupdate = off)",
)


async def _apply() -> None:
    for statement in STATEMENTS:
        await rows(statement)


async def forwards() -> MigrationManager:
    """Apply every statement, in the migration's own transaction."""
    manager = MigrationManager(migration_id=ID, app_name="shared", description=DESCRIPTION)
    manager.add_raw(_apply)
    return manager
