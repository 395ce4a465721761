"""Reading a file that is imported: a JSON array, NDJSON or CSV, each with or without a byte order mark."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from api.http.csv_text import BYTE_ORDER_MARK, unescape_formula
from api.http.json_text import UnreadableJsonError, read_json
from api.orders.lists.exports import CSV_COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

Format = Literal["JSON", "NDJSON", "CSV"]

_FORMATS: dict[str, Format] = {".csv": "CSV", ".tsv": "CSV", ".ndjson": "NDJSON", ".jsonl": "NDJSON"}
_NUMBER = re.compile(r"-?\d{1,20}(\.\d{1,20})?", re.ASCII)
_NUMBERS = ("totalfee", "version")
_COLUMNS = {
    "orders": (CSV_COLUMNS, ("datetime", "totalfee", "service_ids")),
    "services": (("id", "name", "archived_at", "created_at", "updated_at"), ("id", "name")),
}
"""The columns of a file in CSV, and those that it must have."""

LARGEST_CELL = 1_048_576


class UnreadableFileError(Exception):
    """A file does not exist, can't be opened, or can't be read as rows."""

    def __init__(self, reason: str, file: str = "") -> None:
        """Say why, and of which file if there may be several."""
        super().__init__(f"{file}: {reason}" if file else reason)
        self.reason = reason


class UnreadableRow(str):
    """What stands in for a row that can't be read: why, as the predicate of a sentence about it."""

    __slots__ = ()


@dataclass(frozen=True)
class ImportedFile:
    """A file's rows, which are read while they are iterated, once."""

    name: str
    sha256: str
    most_rows: int
    """At least as many as there are rows, for an estimate of the time."""
    rows: Iterator[tuple[int | None, Any]]
    """The line that each begins on (None in a JSON array), and its value or an ``UnreadableRow``."""


def read_file(path: Path, kind: str) -> ImportedFile:
    """Open a file of orders or services. ``kind`` is one of the two words.

    Raises:
        UnreadableFileError: now, or while its rows are iterated.

    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableFileError(error.strerror or "can't be read", str(path)) from None
    format_name = _FORMATS.get(path.suffix.lower()) or _format_of(content.removeprefix(BYTE_ORDER_MARK), path)
    return read_content(content, format_name, kind, path.name, str(path))


def read_content(content: bytes, format_name: Format, kind: str, name: str, place: str = "") -> ImportedFile:
    """Read the content of a file of orders or services.

    Args:
        content: its bytes.
        format_name: the format that they are in.
        kind: ``orders`` or ``services``.
        name: the file's name, for people.
        place: where it is, to name in errors; empty if there is only one file.

    Raises:
        UnreadableFileError: now, or while its rows are iterated.

    """
    text = content.removeprefix(BYTE_ORDER_MARK)
    rows: Iterator[tuple[int | None, Any]]
    if format_name == "JSON":
        values = _read_array(place, text)
        rows, most_rows = _values_of_array(values), len(values)
    else:
        rows = _rows_of_csv(place, text, kind) if format_name == "CSV" else _rows_of_ndjson(text)
        most_rows = text.count(b"\n") + 1
    return ImportedFile(name, sha256(content).hexdigest(), most_rows, rows)


def _format_of(text: bytes, path: Path) -> Format:
    is_called_json = path.suffix.lower() == ".json"
    begins = text[:1000].lstrip()[:1]
    if begins == b"{":
        # One object in a file that is called .json was meant to be an array.
        lines = [line for line in text.split(b"\n", 3)[:3] if line.strip()]
        return "NDJSON" if not is_called_json or (len(lines) > 1 and _is_json(lines[0])) else "JSON"
    return "JSON" if begins == b"[" or is_called_json else "CSV"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _read_array(place: str, text: bytes) -> list[Any]:
    try:
        value = read_json(text, most_keys=math.inf)
    except UnreadableJsonError as error:
        raise UnreadableFileError(f"the file {error}", place) from None
    if not isinstance(value, list):
        raise UnreadableFileError("must be a JSON array", place)
    return value


def _values_of_array(values: list[Any]) -> Iterator[tuple[None, Any]]:
    # Each is let go of when it has been read, so that not all are in memory twice.
    values.reverse()
    while values:
        yield None, values.pop()


def _rows_of_ndjson(text: bytes) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(io.BytesIO(text), start=1):
        if line.strip():
            try:
                yield number, read_json(line)
            except UnreadableJsonError as error:
                yield number, UnreadableRow(str(error))


def _rows_of_csv(place: str, text: bytes, kind: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(LARGEST_CELL)
    lines = io.TextIOWrapper(io.BytesIO(text), encoding="utf-8", newline="")
    head = text.lstrip().partition(b"\n")[0]
    # Spreadsheets write semicolons where the comma is in numbers. No column's name has any of these.
    delimiter = next((mark for mark in ",;\t" if mark.encode() in head), ",")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        columns: Sequence[str] = ()
        while True:
            number = reader.line_num + 1
            cells = next(reader, None)
            if cells is None:
                break
            if not any(cell.strip() for cell in cells):
                continue  # an empty line, or a row of empty cells as spreadsheets write it
            if not columns:
                columns = _read_columns(place, cells, kind, number)
            elif len(cells) == len(columns):
                yield number, _value_of(dict(zip(columns, cells, strict=True)))
            else:
                yield number, UnreadableRow(f"has {len(cells)} cells, and the first line {len(columns)}")
        if not columns:
            _read_columns(place, [], kind, 1)
    except UnicodeDecodeError:
        raise UnreadableFileError(f"{_where_not_utf8(text)}; save it as CSV in UTF-8", place) from None
    except csv.Error as error:
        raise UnreadableFileError(f"line {reader.line_num} is not CSV: {error}", place) from None


def _where_not_utf8(text: bytes) -> str:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        return f"line {line} is not UTF-8"
    return "the file is not UTF-8"


def _read_columns(place: str, cells: list[str], kind: str, line: int) -> Sequence[str]:
    columns = [cell.strip() for cell in cells]
    known, required = _COLUMNS[kind]
    faults = [f"{column!r} is not a column" for column in dict.fromkeys(columns) if column not in known]
    faults += [f"the column {column} appears twice" for column in known if columns.count(column) > 1]
    faults += [f"the column {column} is missing" for column in required if column not in columns]
    if faults:
        what = "; ".join(faults[:10])
        raise UnreadableFileError(f"line {line}: {what}. The columns are: {', '.join(known)}", place)
    return columns


def _value_of(cells: dict[str, str]) -> Any:
    """Return what JSON would have for a row, or an ``UnreadableRow``. Empty cells are left out."""
    value: dict[str, Any] = {
        name: Decimal(cell) if name in _NUMBERS and _NUMBER.fullmatch(cell) else unescape_formula(cell)
        for name, cell in cells.items()
        if cell and name not in ("service_ids", "service_names", "metadata")
    }
    if cells.get("metadata"):
        value["metadata"] = metadata = _read_object(cells["metadata"])
        if metadata is None:
            return UnreadableRow('has metadata that is no JSON object such as {"source":"web"}')
    ids = _read_list(cells.get("service_ids", ""))
    names = _read_list(cells.get("service_names", ""))
    if ids is None or names is None:
        return UnreadableRow('has services that are no JSON array such as ["123","456"]')
    if names and len(names) != len(ids):
        return UnreadableRow(f"has {len(ids)} service_ids and {len(names)} service_names")
    if "service_ids" in cells:
        value["services"] = [{"id": service_id} for service_id in ids]
        for service, name in zip(value["services"], names, strict=False):
            service["name"] = unescape_formula(name) if isinstance(name, str) else name
    return value


def _read_object(cell: str) -> dict[str, Any] | None:
    try:
        value = read_json(cell.encode())
    except UnreadableJsonError:
        return None
    if not isinstance(value, dict):
        return None
    return {
        unescape_formula(key): unescape_formula(text) if isinstance(text, str) else text
        for key, text in value.items()
    }


def _read_list(cell: str) -> list[Any] | None:
    """Read a cell with a JSON array, or with one plain text."""
    if not cell.startswith("["):
        return [cell] if cell else []
    try:
        value = read_json(cell.encode())
    except UnreadableJsonError:
        return None
    return value if isinstance(value, list) else None
