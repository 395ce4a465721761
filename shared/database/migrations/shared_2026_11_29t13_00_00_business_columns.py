"""Columns for what callers keep with an order, for calendars of their own spacing, and for who changed what.

See the .sql beside. The next migration makes use of them.
"""

from pathlib import Path
from typing import Any

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.columns import Column, Integer, Text, Timestamptz
from piccolo.columns.column_types import JSONB
from piccolo.columns.indexes import IndexMethod

from shared.database.statements import execute

ID = "2026-11-29T13:00:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "business columns"

_PARAMS = {
    "primary_key": False,
    "unique": False,
    "index": False,
    "index_method": IndexMethod.btree,
    "choices": None,
    "db_column_name": None,
    "secret": False,
}

_COLUMNS: list[tuple[str, str, str, type[Column], dict[str, Any]]] = [
    ("Calendar", "calendar", "title", Text, {"default": "", "null": False}),
    ("Calendar", "calendar", "spacing_seconds", Integer, {"default": 10_800, "null": False}),
    ("Calendar", "calendar", "deleted_at", Timestamptz, {"default": None, "null": True}),
    ("Order", "orders", "reference", Text, {"default": None, "null": True}),
    ("Order", "orders", "metadata", JSONB, {"default": "{}", "null": False}),
    ("Order", "orders", "status", Text, {"default": "booked", "null": False}),
    ("OrderChange", "order_change", "actor", Text, {"default": None, "null": True}),
    ("OrderChange", "order_change", "reason", Text, {"default": None, "null": True}),
]


async def _apply() -> None:
    await execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))


async def forwards() -> MigrationManager:
    """Take the locks, and then add the columns, in the migration's own transaction."""
    manager = MigrationManager(migration_id=ID, app_name="shared", description=DESCRIPTION)
    manager.add_raw(_apply)
    for table_class, table, column, column_class, params in _COLUMNS:
        manager.add_column(
            table_class_name=table_class,
            tablename=table,
            column_name=column,
            db_column_name=column,
            column_class_name=column_class.__name__,
            column_class=column_class,
            params={**_PARAMS, **params},
            schema=None,
        )
    return manager
