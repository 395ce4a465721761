"""Orders' texts are stored with the orders. See the .sql beside."""

from pathlib import Path

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns.column_types import JSON, Integer
from piccolo.columns.indexes import IndexMethod

from shared.database.statements import execute

ID = "2026-11-29T12:00:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "stored text"

_PARAMS = {
    "primary_key": False,
    "unique": False,
    "index": False,
    "index_method": IndexMethod.btree,
    "choices": None,
    "db_column_name": None,
    "secret": False,
}


async def _apply() -> None:
    await execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))


async def forwards() -> MigrationManager:
    """Apply the statements, and then add the columns, in the migration's own transaction."""
    manager = MigrationManager(migration_id=ID, app_name="shared", description=DESCRIPTION)
    manager.add_raw(_apply)
    manager.add_column(
        table_class_name="Order",
        tablename="orders",
        column_name="rendered",
        db_column_name="rendered",
        column_class_name="JSON",
        column_class=JSON,
        params={**_PARAMS, "default": None, "null": True},
        schema=None,
    )
    manager.add_column(
        table_class_name="Order",
        tablename="orders",
        column_name="format",
        db_column_name="format",
        column_class_name="Integer",
        column_class=Integer,
        params={**_PARAMS, "default": 1, "null": False},
        schema=None,
    )
    manager.alter_column(
        table_class_name="Order",
        tablename="orders",
        column_name="calendar_id",
        db_column_name="calendar_id",
        params={"default": None},
        old_params={"default": None},
        column_class=Integer,
        # Not ForeignKey, which Piccolo can't build from these parameters: the type of the column stays.
        old_column_class=None,
        schema=None,
    )
    return manager
