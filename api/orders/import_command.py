"""Load a JSON file of orders as one import: ``python -m api.orders.import_command FILE [--services FILE]``.

All or nothing. If the file was imported before, its orders are not stored again; services are added all the
same.

Exit status:

- 0: imported; or nothing to do, as all of it was imported before or, with ``--only-if-empty``, as the
  database holds data or did.
- 1: refused, and every bad order and service is named by its place in its file; or the database is
  unavailable.
- 2: a file can't be read.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from api.http.bodies import faults_of
from api.http.fields import read_callers_id
from api.http.json_text import UnreadableJsonError, read_json
from api.http.times import utc_text
from api.orders.errors import ContentionError
from api.orders.imported_services import ImportedService
from api.orders.imports import (
    Imported,
    ImportedOrder,
    ImportRefusedError,
    NotEmptyError,
    import_orders,
)
from api.services.bodies import NewService
from shared.command_output import print_line
from shared.database.engine import DB, DatabaseUnavailableError
from shared.progress import Progress, ProgressLine, ReportProgress, ignore_progress


class UnreadableFileError(Exception):
    """A file does not exist, can't be opened or is not a JSON array."""


def _read_list(path: Path) -> tuple[list[Any], bytes]:
    try:
        content = path.read_bytes()
        value = read_json(content, most_keys=math.inf)
    except OSError as error:
        raise UnreadableFileError(f"{path}: {error.strerror}") from None
    except UnreadableJsonError as error:
        raise UnreadableFileError(f"{path}: the file {error}") from None
    if not isinstance(value, list):
        raise UnreadableFileError(f"{path}: must be a JSON array")
    return value, content


def _place(name: str, index: int, pointer: str | None) -> str:
    return f"{name}[{index}]{(pointer or '#')[1:].replace('/', '.')}"


def _check_orders(
    values: list[Any], faults: list[str], progress: ReportProgress = ignore_progress
) -> dict[int, ImportedOrder]:
    """Return the orders that can be read, by their places; append the faults of the others to ``faults``."""
    orders: dict[int, ImportedOrder] = {}
    first_of_id: dict[int, int] = {}
    for index, value in enumerate(values):
        progress(Progress(index, len(values), "checked", is_last_step=False))
        try:
            order = ImportedOrder.model_validate(value, strict=True)
        except ValidationError as error:
            faults += [f"{_place('orders', index, f.pointer)}: {f.detail}" for f in faults_of(error)]
            continue
        orders[index] = order
        if order.id is not None:
            first = first_of_id.setdefault(order.id, index)
            if first != index:
                faults.append(f"orders[{index}].id: {order.id} is the id of orders[{first}] too")
    return orders


def _check_services(values: list[Any], faults: list[str]) -> tuple[list[ImportedService], set[int]]:
    """Return the services that can be read, and the ids of the others where their ids can be read.

    Appends the faults of the others to ``faults``.
    """
    services = []
    faulty_services: set[int] = set()
    for index, value in enumerate(values):
        try:
            service = NewService.model_validate(value, strict=True)
        except ValidationError as error:
            faults += [f"{_place('services', index, f.pointer)}: {f.detail}" for f in faults_of(error)]
            if isinstance(value, dict):
                with suppress(ValueError):
                    faulty_services.add(read_callers_id(value.get("id")))
            continue
        if service.id is None:
            faults.append(f"services[{index}].id: is required")
        else:
            services.append(ImportedService(index, service.id, service.name))
    return services, faulty_services


async def run(path: Path, services_path: Path | None, *, only_if_empty: bool = False) -> Imported:
    """Read, check and import the files.

    Raises:
        UnreadableFileError, ImportRefusedError, ContentionError, DatabaseUnavailableError: nothing is stored.
        NotEmptyError: ``only_if_empty``, and the database holds data or did; nothing is stored.

    """
    progress = ProgressLine("import")
    values, content = _read_list(path)
    listed = _read_list(services_path)[0] if services_path else []
    faults: list[str] = []
    orders = _check_orders(values, faults, progress)
    services, faulty_services = _check_services(listed, faults)
    await DB.start(size=1)
    try:
        return await import_orders(
            path.name,
            sha256(content).hexdigest(),
            orders,
            services,
            progress,
            faults=faults,
            faulty_services=faulty_services,
            only_if_empty=only_if_empty,
        )
    except (ContentionError, DatabaseUnavailableError) as error:
        if not faults:
            raise
        raise ImportRefusedError([*faults, f"not compared with what is stored: {error}"]) from error
    finally:
        await DB.stop()


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m api.orders.import_command", description="Load a JSON file of orders, all or nothing."
    )
    parser.add_argument("file", type=Path, help="a JSON array of orders, as POST /orders takes them")
    parser.add_argument("--services", type=Path, help='a JSON array of services: {"id": 123, "name": "…"}')
    parser.add_argument(
        "--only-if-empty",
        action="store_true",
        help="do nothing if there are, or were, orders or changes, or there are services",
    )
    options = parser.parse_args(arguments)
    try:
        imported = asyncio.run(run(options.file, options.services, only_if_empty=options.only_if_empty))
    except UnreadableFileError as error:
        print_line(str(error), level="error")
        return 2
    except NotEmptyError:
        print_line(f"{options.file} was not imported, as the database is not new: nothing to do")
        return 0
    except ImportRefusedError as error:
        _print_reasons(error.reasons)
        return 1
    except (ContentionError, DatabaseUnavailableError) as error:
        print_line(f"nothing was imported, try again: {error}", level="error")
        return 1
    services = f"; services added: {imported.services_added:,}" if imported.services_added else ""
    if imported.before:
        print_line(
            f"{options.file} was imported before, on {utc_text(imported.at)}{services or ': nothing to do'}"
        )
    else:
        print_line(f"imported {imported.orders:,} orders from {options.file}{services}")
    return 0


def _print_reasons(reasons: Sequence[str]) -> None:
    for reason in reasons:
        print_line(reason, level="error")
    bad = Counter(place.partition("[")[0] for place in {reason.partition("]")[0] for reason in reasons})
    counts = f"bad orders: {bad['orders']:,}, bad services: {bad['services']:,}"
    print_line(f"refused: nothing was imported; {counts}", level="error")


if __name__ == "__main__":
    sys.exit(main())
