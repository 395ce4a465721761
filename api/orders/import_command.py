"""Load a file of orders as one import: ``python -m api.orders.import_command FILE [--services FILE]``.

All or nothing. If the file was imported before, its orders are not stored again; services are added all the
same.

Exit status:

- 0: imported; or nothing to do, as all of it was imported before or, with ``--only-if-empty``, as the
  database holds data or did.
- 1: refused; the first bad orders and services are named, the others counted, and ``--report`` writes all
  faults to a file; or the database is unavailable.
- 2: a file can't be read.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from api.http.bodies import faults_of
from api.http.texts import read_reason
from api.http.times import utc_text
from api.orders.errors import ContentionError, ImportRefusedError
from api.orders.imports.commands import Imported, NotEmptyError, import_orders
from api.orders.imports.faults import FaultReport
from api.orders.imports.files import ImportedFile, UnreadableFileError, UnreadableRow, read_file
from api.orders.imports.imported_orders import ImportedOrder, ServiceInFile, read_imported_id
from api.orders.imports.imported_services import ImportedService
from shared.command_output import print_line
from shared.database.engine import DB, DatabaseUnavailableError
from shared.progress import Progress, ProgressLine, ReportProgress, ignore_progress

Model = TypeVar("Model", bound=BaseModel)


def _check_orders(
    file: ImportedFile, faults: FaultReport, progress: ReportProgress = ignore_progress
) -> dict[int, ImportedOrder]:
    """Return the orders that can be read, by their places; add the faults of the others to ``faults``."""
    orders: dict[int, ImportedOrder] = {}
    first_of_id: dict[int, int] = {}
    for index, value in _rows(file, "orders", faults):
        progress(Progress(index, file.most_rows, "checked", is_last_step=False))
        order = _read_row(ImportedOrder, value, "orders", index, faults)
        if order is None:
            continue
        orders[index] = order
        if order.id is not None:
            first = first_of_id.setdefault(order.id, index)
            if first != index:
                faults.add("orders", index, ".id", f"{order.id} is the id of orders[{first}] too")
    return orders


def _check_services(file: ImportedFile, faults: FaultReport) -> tuple[list[ImportedService], set[int]]:
    """Return the services that can be read, and the ids of the others where their ids can be read.

    Adds the faults of the others to ``faults``.
    """
    services = []
    faulty_services: set[int] = set()
    for index, value in _rows(file, "services", faults):
        service = _read_row(ServiceInFile, value, "services", index, faults)
        if service is not None:
            services.append(ImportedService(index, **dict(service)))
        elif isinstance(value, dict):
            with suppress(ValueError):
                faulty_services.add(read_imported_id(value.get("id")))
    return services, faulty_services


def _rows(file: ImportedFile, name: str, faults: FaultReport) -> Iterator[tuple[int, Any]]:
    for index, (line, value) in enumerate(file.rows):
        if line is not None:
            faults.lines[name].append(line)
        yield index, value


def _read_row(model: type[Model], value: Any, name: str, index: int, faults: FaultReport) -> Model | None:
    if isinstance(value, UnreadableRow):
        faults.add(name, index, "", value)
        return None
    try:
        return model.model_validate(value, strict=True)
    except ValidationError as error:
        for fault in faults_of(error):
            faults.add(name, index, (fault.pointer or "#")[1:].replace("/", "."), fault.detail)
        return None


async def run(
    path: Path,
    services_path: Path | None,
    faults: FaultReport,
    *,
    reason: str | None = None,
    only_if_empty: bool = False,
) -> Imported:
    """Read, check and import the files.

    Raises:
        UnreadableFileError, ImportRefusedError, ContentionError, DatabaseUnavailableError: nothing is stored;
            if the import is refused, ``faults`` says why.
        NotEmptyError: ``only_if_empty``, and the database holds data or did; nothing is stored.

    """
    progress = ProgressLine("import")
    file = read_file(path, "orders")
    services_file = read_file(services_path, "services") if services_path else None
    orders = _check_orders(file, faults, progress)
    services, faulty_services = _check_services(services_file, faults) if services_file else ([], set())
    await DB.start(size=1)
    try:
        return await import_orders(
            file.name,
            file.sha256,
            orders,
            services,
            progress,
            faults=faults,
            faulty_services=faulty_services,
            reason=reason,
            only_if_empty=only_if_empty,
        )
    except (ContentionError, DatabaseUnavailableError) as error:
        if not faults:
            raise
        faults.note(f"not compared with what is stored: {error}")
        raise ImportRefusedError from error
    finally:
        await DB.stop()


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Collect no garbage: all that is read is kept to the end, and a collection looks through all of it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_reason(text: str) -> str:
    try:
        return read_reason(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m api.orders.import_command", description="Load a file of orders, all or nothing."
    )
    parser.add_argument(
        "file", type=Path, help="orders as POST /orders takes them or exports have them: JSON, NDJSON or CSV"
    )
    parser.add_argument("--services", type=Path, help='services: {"id": 123, "name": "…"}, likewise')
    parser.add_argument("--report", type=Path, help="write every fault to this file, as JSON")
    parser.add_argument("--reason", type=_read_reason, help="why, for the history of the orders")
    parser.add_argument(
        "--only-if-empty",
        action="store_true",
        help="do nothing if there are, or were, orders or changes, or there are services",
    )
    options = parser.parse_args(arguments)
    try:
        report = options.report.open("wb") if options.report else None
    except OSError as error:
        print_line(f"{options.report}: {error.strerror}", level="error")
        return 2
    with report or nullcontext(), _without_garbage_collection():
        faults = FaultReport(report)
        status = _import(options, faults)
        faults.close()
    return status


def _import(options: argparse.Namespace, faults: FaultReport) -> int:
    try:
        imported = asyncio.run(
            run(
                options.file,
                options.services,
                faults,
                reason=options.reason,
                only_if_empty=options.only_if_empty,
            )
        )
    except UnreadableFileError as error:
        print_line(str(error), level="error")
        return 2
    except NotEmptyError:
        print_line(f"{options.file} was not imported, as the database is not new: nothing to do")
        return 0
    except ImportRefusedError:
        for line in faults.page():
            print_line(line, level="error")
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


if __name__ == "__main__":
    sys.exit(main())
