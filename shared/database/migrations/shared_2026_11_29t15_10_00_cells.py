"""The cell that an installation is. See the .sql beside this file."""

from pathlib import Path

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from shared.database.statements import execute

ID = "2026-11-29T15:10:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "cells"


async def _apply() -> None:
    await execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))


async def forwards() -> MigrationManager:
    """Apply every statement, in the migration's own transaction."""
    manager = MigrationManager(migration_id=ID, app_name="shared", description=DESCRIPTION)
    manager.add_raw(_apply)
    return manager
