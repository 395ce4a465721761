"""What Piccolo's command line needs to know: the tables, and where their migrations are."""

from __future__ import annotations

from pathlib import Path

from piccolo.conf.apps import AppConfig, table_finder

APP_CONFIG = AppConfig(
    app_name="shared",
    migrations_folder_path=str(Path(__file__).parent / "migrations"),
    table_classes=table_finder(modules=["shared.database.tables"]),
    migration_dependencies=[],
    commands=[],
)
