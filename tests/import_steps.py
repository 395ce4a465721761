"""Steps of tests of ``oms import``: write files, import them, read its output."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from tests.builders import order_body
from tests.processes import ROOT, call_command

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    Done = subprocess.CompletedProcess[str]

SAMPLE_ORDERS = ROOT / "sample-data" / "orders.json"
SAMPLE_SERVICES = ROOT / "sample-data" / "services.json"


def import_files(*arguments: Path | str, database: str = "", terminal: bool = False) -> Done:
    """Run the command with these arguments, on the database of ``api`` unless another is named.

    Progress is shown on a ``terminal`` only.
    """
    url = database or os.environ["OMS_DATABASE_URL"]
    return call_command("oms", "import", *map(str, arguments), database=url, terminal=terminal)


def import_rows(
    folder: Path, orders: object, services: object = None, *options: Path | str, terminal: bool = False
) -> Done:
    """Write orders, and services if any, to files in the folder and load them; text is written as it is."""
    arguments: list[Path | str] = [_written(folder / "orders.json", orders)]
    if services is not None:
        arguments += ["--services", _written(folder / "services.json", services)]
    return import_files(*arguments, *options, terminal=terminal)


def _written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def import_sample(*options: str, database: str = "") -> Done:
    """Load the sample data."""
    return import_files(SAMPLE_ORDERS, "--services", SAMPLE_SERVICES, *options, database=database)


def imported(order_id: int | str, **fields: Any) -> dict[str, Any]:
    """Return an order for a file."""
    return order_body(id=order_id, **fields)


def catalogue(*services: tuple[int, str]) -> list[dict[str, Any]]:
    """Return services for a file."""
    return [{"id": service_id, "name": name} for service_id, name in services]
