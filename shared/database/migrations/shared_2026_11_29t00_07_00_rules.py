"""What Piccolo can't express: the 3-hour rule, bounds, functions, triggers, indexes, first rows. See the .sql beside."""

from pathlib import Path

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from shared.database.statements import execute
from shared.settings import settings

ID = "2026-11-29T00:07:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "rules"


async def _apply() -> None:
    await execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
    await execute(
        "INSERT INTO fee_summary_state (id, generation, building, time_zone) VALUES (1, 1, 1, $1)", settings().time_zone
    )


async def forwards() -> MigrationManager:
    """Apply every statement, in the migration's own transaction."""
    manager = MigrationManager(migration_id=ID, app_name="shared", description=DESCRIPTION)
    manager.add_raw(_apply)
    return manager
