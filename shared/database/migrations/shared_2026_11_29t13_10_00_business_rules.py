"""References, metadata, cancellation, actors, and calendars of their own spacing. See the .sql beside."""

from pathlib import Path

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns import Timestamptz
from piccolo.columns.defaults.timestamptz import TimestamptzNow

from shared.database.statements import execute

ID = "2026-11-29T13:10:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "business rules"


async def _apply() -> None:
    await execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))


async def forwards() -> MigrationManager:
    """Apply every statement, in the migration's own transaction."""
    manager = MigrationManager(migration_id=ID, app_name="shared", description=DESCRIPTION)
    manager.add_raw(_apply)
    for column in ("created_at", "updated_at"):
        manager.alter_column(
            table_class_name="Order",
            tablename="orders",
            column_name=column,
            db_column_name=column,
            params={"default": None},
            old_params={"default": TimestamptzNow()},
            column_class=Timestamptz,
            old_column_class=Timestamptz,
            schema=None,
        )
    return manager
