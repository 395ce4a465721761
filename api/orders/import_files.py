"""Load a file of orders as one import, all or nothing.

If the file was imported before, its orders are not stored again; services are added all the same.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from api.http.bodies import faults_of
from api.orders.errors import ContentionError, ImportRefusedError
from api.orders.imports.commands import Imported, import_orders
from api.orders.imports.faults import FaultReport
from api.orders.imports.files import ImportedFile, UnreadableRow, read_file
from api.orders.imports.imported_orders import ImportedOrder, ServiceInFile, read_imported_id
from api.orders.imports.imported_services import ImportedService
from shared.database.engine import DatabaseUnavailableError
from shared.database.one_connection import run_on_database
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


def import_files(
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
    with _without_garbage_collection():
        # Read and checked before an event loop runs, in which Ctrl-C would wait for the next await.
        file = read_file(path, "orders")
        services_file = read_file(services_path, "services") if services_path else None
        orders = _check_orders(file, faults, progress)
        services, faulty_services = _check_services(services_file, faults) if services_file else ([], set())
        store = partial(
            import_orders,
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
        try:
            return run_on_database(store)
        except (ContentionError, DatabaseUnavailableError) as error:
            if not faults:
                raise
            faults.note(f"not compared with what is stored: {error}")
            raise ImportRefusedError from error


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
