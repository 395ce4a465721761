"""Load a file of orders as one import, all or nothing.

If the file was imported before, its orders are not stored again; services are added all the same.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from api.http.attribution import Attribution
from api.orders.errors import ContentionError, ImportRefusedError
from api.orders.imports.commands import ACTOR, Imported, import_orders
from api.orders.imports.faults import FaultReport
from api.orders.imports.files import read_file
from api.orders.imports.rows import check_orders, check_services, without_garbage_collection
from shared.database.engine import DatabaseUnavailableError
from shared.database.one_connection import run_on_database
from shared.progress import ProgressLine


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
    with without_garbage_collection():
        # Read and checked before an event loop runs, in which Ctrl-C would wait for the next await.
        file = read_file(path, "orders")
        services_file = read_file(services_path, "services") if services_path else None
        orders = check_orders(file, faults, progress)
        services, faulty_services = check_services(services_file, faults) if services_file else ([], set())
        store = partial(
            import_orders,
            file.name,
            file.sha256,
            orders,
            services,
            progress,
            faults=faults,
            faulty_services=faulty_services,
            attribution=Attribution(ACTOR, reason),
            only_if_empty=only_if_empty,
        )
        try:
            return run_on_database(store)
        except (ContentionError, DatabaseUnavailableError) as error:
            if not faults:
                raise
            faults.note(f"not compared with what is stored: {error}")
            raise ImportRefusedError from error
