"""Changes copy the stored texts. See the .sql beside."""

from pathlib import Path

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns.column_types import JSON

from shared.database.statements import execute

ID = "2026-11-29T12:20:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "one rendering"


async def _apply() -> None:
    await execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))


async def forwards() -> MigrationManager:
    """Apply every statement, in the migration's own transaction."""
    manager = MigrationManager(migration_id=ID, app_name="shared", description=DESCRIPTION)
    manager.add_raw(_apply)
    # The statements have done it. Piccolo is told for the next migration that it derives from the tables.
    manager.alter_column(
        table_class_name="Order",
        tablename="orders",
        column_name="rendered",
        db_column_name="rendered",
        params={"null": False},
        old_params={"null": True},
        column_class=JSON,
        old_column_class=JSON,
        schema=None,
    )
    return manager
