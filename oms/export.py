"""``oms export``: all orders, or some, as one file; the file is there as a whole or not at all."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from oms.api_calls import calling_api
from oms.errors import CommandError
from oms.options import AsJson
from oms.output import print_json
from shared.command_output import print_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from oms.http_client import Api


class Format(StrEnum):
    """What the file is written in."""

    CSV = "csv"
    NDJSON = "ndjson"
    JSON = "json"


_EXTENSIONS = {".csv": Format.CSV, ".ndjson": Format.NDJSON, ".jsonl": Format.NDJSON, ".json": Format.JSON}

_TIME = "RFC 3339, such as 2026-11-22T10:00:00Z"


@calling_api
def export_orders(
    api: Api,
    file: Annotated[Path, typer.Argument(help="Where to write them; - is standard output.")],
    file_format: Annotated[
        Format | None, typer.Option("--format", help="By default as the file's extension says.")
    ] = None,
    earliest: Annotated[
        str | None, typer.Option("--from", help=f"Orders from this datetime on: {_TIME}.")
    ] = None,
    latest: Annotated[str | None, typer.Option("--to", help="Orders up to this datetime.")] = None,
    calendar: Annotated[
        list[str] | None, typer.Option("--calendar", help="On this calendar; repeatable.")
    ] = None,
    service: Annotated[
        list[str] | None, typer.Option("--service", help="With this service; repeatable.")
    ] = None,
    status: Annotated[str | None, typer.Option("--status", help="booked or cancelled.")] = None,
    created_after: Annotated[
        str | None, typer.Option("--created-after", help="Created after this time.")
    ] = None,
    updated_after: Annotated[
        str | None, typer.Option("--updated-after", help="Updated after this time.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write all orders that match to a file.

    They are those of one moment, and `oms import` reads the file. It appears under its name once it is
    complete; one that exists is replaced only then. What goes to standard output may be cut off: then the
    exit status is 1. Needs the scope orders:read.
    """
    written = file_format or _EXTENSIONS.get(file.suffix.lower())
    if written is None:
        raise CommandError("--format is needed: csv, ndjson or json; the file's extension does not say it", 2)
    query = [("format", "csv" if written is Format.CSV else "ndjson")]
    single = {
        "from": earliest,
        "to": latest,
        "status": status,
        "created_after": created_after,
        "updated_after": updated_after,
    }
    query += [(name, value) for name, value in single.items() if value is not None]
    query += [("calendar", name) for name in calendar or ()] + [("service", name) for name in service or ()]
    from oms.http_client import check_media_type

    with api.open("GET", "/orders/export", query=query) as response, _whole_file(file) as output:
        check_media_type(response, "text/csv" if written is Format.CSV else "application/x-ndjson")
        orders = _copy(response.iter_stream(), output, written)
    if str(file) == "-":
        return
    if as_json:
        print_json({"file": str(file), "format": written, "orders": orders})
    else:
        print_line(f"exported {orders:,} orders to {file}")


def _copy(chunks: Iterable[bytes], output: BinaryIO, written: Format) -> int:
    """Write the response to the output; return how many orders it has."""
    from shared.progress import ProgressLine

    progress = ProgressLine("export")
    counter = _CsvRows() if written is Format.CSV else _Lines()
    lines = b""
    first = True
    for chunk in chunks:
        counter.add(chunk)
        if written is not Format.JSON:
            output.write(chunk)
        else:
            whole, newline, lines = (lines + chunk).rpartition(b"\n")
            if newline:
                output.write((b"[\n" if first else b",\n") + whole.replace(b"\n", b",\n"))
                first = False
        progress.count(counter.rows, "orders written")
    if written is Format.JSON:
        output.write(b"[]\n" if first else b"\n]\n")
    return counter.rows


class _Lines:
    """Counts the lines of NDJSON."""

    def __init__(self) -> None:
        self.rows = 0

    def add(self, chunk: bytes) -> None:
        self.rows += chunk.count(b"\n")


class _CsvRows:
    """Counts the rows of CSV, without its header: line ends that are not within quotes."""

    def __init__(self) -> None:
        self._is_quoted = False
        self._ends = 0

    def add(self, chunk: bytes) -> None:
        for number, part in enumerate(chunk.split(b'"')):
            if number:
                self._is_quoted = not self._is_quoted
            if not self._is_quoted:
                self._ends += part.count(b"\n")

    @property
    def rows(self) -> int:
        return max(0, self._ends - 1)


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name at the end of the block, if the block raises nothing."""
    if str(path) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = path.resolve()  # a link stays, and what it leads to is replaced
    if path.exists() and not path.is_file():
        raise CommandError(f"{path} is not a file; - writes to standard output", 2)
    try:
        # Beside it, as a rename is atomic within a file system only.
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as output:
            part = Path(output.name)
            try:
                yield output  # type: ignore[misc]  # it is a BinaryIO in all that is used
                output.flush()
                os.fsync(output.fileno())
                umask = os.umask(0)
                os.umask(umask)
                part.chmod(0o666 & ~umask)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}; nothing was written", 2) from None
