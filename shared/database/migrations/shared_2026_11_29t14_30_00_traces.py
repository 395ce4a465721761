"""The trace that a change belongs to. See the .sql beside."""

from pathlib import Path

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns import Text
from piccolo.columns.indexes import IndexMethod

from shared.database.statements import execute

ID = "2026-11-29T14:30:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "traces"


async def _apply() -> None:
    await execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))


async def forwards() -> MigrationManager:
    """Take the lock and replace the triggers' functions, and then add the column, in one transaction."""
    manager = MigrationManager(migration_id=ID, app_name="shared", description=DESCRIPTION)
    manager.add_raw(_apply)
    manager.add_column(
        table_class_name="OrderChange",
        tablename="order_change",
        column_name="traceparent",
        db_column_name="traceparent",
        column_class_name="Text",
        column_class=Text,
        params={
            "default": None,
            "null": True,
            "primary_key": False,
            "unique": False,
            "index": False,
            "index_method": IndexMethod.btree,
            "choices": None,
            "db_column_name": None,
            "secret": False,
        },
        schema=None,
    )
    return manager
