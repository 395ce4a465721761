"""Steps of tests of ``python -m api.orders.import_command``: write files, import them, read its output."""

from __future__ import annotations

import io
import json
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from api.orders.import_command import main
from tests.builders import order_body
from tests.processes import ROOT, run_command

if TYPE_CHECKING:
    from pathlib import Path

    Done = subprocess.CompletedProcess[str]

SAMPLE_ORDERS = ROOT / "sample-data" / "orders.json"
SAMPLE_SERVICES = ROOT / "sample-data" / "services.json"


def import_files(*arguments: Path | str) -> Done:
    """Run the command in this process: it is a second quicker."""
    with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
        status = main([*map(str, arguments)])
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())


def import_in_process(database_url: str, *arguments: Path | str) -> Done:
    """Run the command as a process of its own."""
    return run_command("api.orders.import_command", *map(str, arguments), database=database_url)


def import_rows(folder: Path, orders: object, services: object = None) -> Done:
    """Write orders, and services if any, to files in the folder and load them; text is written as it is."""
    arguments: list[Path | str] = [_written(folder / "orders.json", orders)]
    if services is not None:
        arguments += ["--services", _written(folder / "services.json", services)]
    return import_files(*arguments)


def _written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def import_sample(*options: str) -> Done:
    """Load the sample data."""
    return import_files(SAMPLE_ORDERS, "--services", SAMPLE_SERVICES, *options)


def imported(order_id: int | str, **fields: Any) -> dict[str, Any]:
    """Give an order of a file."""
    return order_body(id=order_id, **fields)


def catalogue(*services: tuple[int, str]) -> list[dict[str, Any]]:
    """Give the services of a file."""
    return [{"id": service_id, "name": name} for service_id, name in services]
