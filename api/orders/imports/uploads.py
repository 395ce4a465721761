"""Importing a file that a caller of the API sends: one at a time in each process, and in limited memory."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from typing import TYPE_CHECKING

from api.http.media_types import CSV, JSON, NDJSON
from api.orders.errors import ImportRefusedError, ImportsBusyError, ImportTooSlowError
from api.orders.imports.commands import Imported, import_orders
from api.orders.imports.faults import FaultReport
from api.orders.imports.files import Format, UnreadableFileError, read_content
from api.orders.imports.rows import check_orders, without_garbage_collection
from shared.database.transaction import retry_on_lock_timeout

if TYPE_CHECKING:
    from api.http.attribution import Attribution
    from api.orders.imports.files import ImportedFile
    from api.orders.imports.imported_orders import ImportedOrder

FORMATS: dict[str, Format] = {JSON: "JSON", NDJSON: "NDJSON", CSV: "CSV"}
"""The formats of files, by media type."""

LARGEST_FILE_BYTES = 8 * 1024 * 1024

MOST_VALUES = 1_500_000
"""Values and lines of a file: each takes many times its bytes in memory."""

MOST_ROWS = 100_000
"""Rows of a file: the largest file has a third as many orders. To say what is wrong with a row takes long."""

LONGEST_SECONDS = 30
"""How long storing a file may take; others' moves on its calendars wait meanwhile.

Thousands of orders near each other take long.
"""

_slot = asyncio.Semaphore(1)


class RefusedFileError(Exception):
    """Nothing was imported."""

    def __init__(self, faults: FaultReport) -> None:
        """Say why."""
        super().__init__()
        self.faults = faults


async def import_upload(
    content: bytes, media_type: str, name: str, attribution: Attribution, *, is_dry_run: bool
) -> tuple[ImportedFile, Imported]:
    """Read, check and import a file, all or nothing.

    It is read in a thread. A garbage collection would stop all other requests while it looks through what is
    read; as nothing of it is garbage before the end, there is none.

    Raises:
        UnreadableFileError, RefusedFileError, ContentionError, DatabaseUnavailableError: nothing is stored.
        ImportsBusyError: another import is running.
        ImportTooSlowError: it took longer than ``LONGEST_SECONDS``; nothing is stored.

    """
    if _slot.locked():
        raise ImportsBusyError
    async with _slot:
        with without_garbage_collection():
            file, orders, faults = await asyncio.to_thread(_read, content, FORMATS[media_type], name)
            try:
                async with asyncio.timeout(LONGEST_SECONDS):
                    return file, await _store(file, orders, faults, attribution, is_dry_run=is_dry_run)
            except TimeoutError:
                raise ImportTooSlowError from None


def _read(
    content: bytes, format_name: Format, name: str
) -> tuple[ImportedFile, dict[int, ImportedOrder], FaultReport]:
    if sum(map(content.count, (b",", b"[", b"{", b"\n"))) > MOST_VALUES:
        raise UnreadableFileError(f"the file has more than {MOST_VALUES:,} values and lines; split it")
    faults = FaultReport()
    file = read_content(content, format_name, "orders", name)
    if file.most_rows > MOST_ROWS:
        raise UnreadableFileError(f"the file has more than {MOST_ROWS:,} rows; split it")
    return file, check_orders(file, faults), faults


@retry_on_lock_timeout
async def _store(
    file: ImportedFile,
    orders: dict[int, ImportedOrder],
    faults: FaultReport,
    attribution: Attribution,
    *,
    is_dry_run: bool,
) -> Imported:
    # A session that serves requests waits for no lock for long. Then all is compared again, from here.
    report = deepcopy(faults)
    try:
        return await import_orders(
            file.name,
            file.sha256,
            orders,
            faults=report,
            attribution=attribution,
            only_compare=is_dry_run,
        )
    except ImportRefusedError:
        raise RefusedFileError(report) from None
