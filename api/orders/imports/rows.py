"""Reading the rows of a file that is imported as orders and services; each fault is named with its place."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from api.http.bodies import faults_of
from api.orders.imports.faults import FaultReport
from api.orders.imports.files import ImportedFile, UnreadableRow
from api.orders.imports.imported_orders import ImportedOrder, ServiceInFile, read_imported_id
from api.orders.imports.imported_services import ImportedService
from shared.progress import Progress, ReportProgress, ignore_progress

Model = TypeVar("Model", bound=BaseModel)


def check_orders(
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


def check_services(file: ImportedFile, faults: FaultReport) -> tuple[list[ImportedService], set[int]]:
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
        faults.add(name, index, "", str(value))
        return None
    try:
        return model.model_validate(value, strict=True)
    except ValidationError as error:
        for fault in faults_of(error):
            pointer = (fault.pointer or "#")[1:]
            faults.add(name, index, pointer.replace("/", "."), fault.detail, pointer)
        return None


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Collect no garbage: all that is read is kept to the end, and a collection looks through all of it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
