"""The report on a file that is refused: one page for people, and every fault in a file if asked for."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from api.http.json_text import encode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MOST_ROWS = 100
"""Rows that the page names."""

MOST_FAULTS_OF_A_ROW = 10
MOST_KINDS = 50

_VALUES = re.compile(r"'[^']*'|(?<=[\[.])\d+(?=[\].])|\d[\w.:-]*")
"""What differs between faults of one kind."""

_INDEX = re.compile(r"\[(\d+)\]")


class RowFault(msgspec.Struct, frozen=True):
    """What is wrong with a row of a file."""

    file: str
    """``orders`` or ``services``."""
    row: int
    """From 0."""
    line: int | None
    """Where the row begins, from 1; None in a JSON array."""
    member: str
    """``.totalfee`` for instance; empty for the row as a whole."""
    detail: str
    pointer: str
    """A JSON Pointer into the row; empty for the row as a whole."""

    @property
    def place(self) -> str:
        """The row, for people."""
        return f"{self.file}[{self.row}]" + (f" in line {self.line}" if self.line else "")

    def __str__(self) -> str:
        """Write the fault as a line of the page."""
        line = f" (line {self.line})" if self.line else ""
        return f"{self.file}[{self.row}]{self.member}{line}: {self.detail}"


@dataclass
class _Kind:
    """Faults that differ in values only."""

    text: str
    """What all of them say, or with an ellipsis for the values that differ."""
    first: RowFault
    count: int = 0


class FaultReport:
    """Collects faults. Its memory is bounded by the page, and by two numbers for each row."""

    def __init__(self, file: BinaryIO | None = None) -> None:
        """Write every fault to a file too, as a JSON array, if one is given."""
        self.lines: dict[str, array[int]] = {"orders": array("q"), "services": array("q")}
        """The line that each row of a file begins on; none in a JSON array."""
        self._file = file
        self._separator = b"[\n"
        self._page: list[RowFault | str] = []
        self._named: Counter[tuple[str, int]] = Counter()
        self._left_out = 0
        self._bad: dict[str, set[int]] = {"orders": set(), "services": set()}
        self._kinds: dict[str, _Kind] = {}

    def __bool__(self) -> bool:
        """Whether there are faults."""
        return any(self._bad.values())

    @property
    def count(self) -> int:
        """How many faults there are."""
        return len(self.shown) + self._left_out

    @property
    def shown(self) -> list[RowFault]:
        """The faults that the page names."""
        return [fault for fault in self._page if isinstance(fault, RowFault)]

    def add(self, file: str, row: int, member: str, detail: str, pointer: str | None = None) -> None:
        """Add a fault of a row; see ``RowFault``. The pointer is the member's, unless it is given."""
        if pointer is None:
            pointer = _INDEX.sub(r"/\1", member).replace(".", "/")
        lines = self.lines[file]
        fault = RowFault(file, row, lines[row] if row < len(lines) else None, member, detail, pointer)
        self._bad[file].add(row)
        self._count(fault)
        named = self._named[file, row]
        if named < MOST_FAULTS_OF_A_ROW and (named or len(self._named) < MOST_ROWS):
            self._named[file, row] += 1
            self._page.append(fault)
        else:
            self._left_out += 1
        if self._file:
            self._file.write(self._separator + encode(fault))
            self._separator = b",\n"

    def _count(self, fault: RowFault) -> None:
        text = f"{fault.file}{fault.member}: {fault.detail}"
        name = _VALUES.sub("…", text)
        if name not in self._kinds and len(self._kinds) >= MOST_KINDS:
            name = text = "faults of other kinds"
        kind = self._kinds.setdefault(name, _Kind(text, fault))
        kind.count += 1
        if kind.text != text:
            kind.text = name

    def note(self, text: str) -> None:
        """Add a line to the page that is about no row."""
        self._page.append(text)

    def close(self) -> None:
        """End the file."""
        if self._file:
            self._file.write(b"[]\n" if self._separator == b"[\n" else b"\n]\n")

    def page(self) -> Iterator[str]:
        """Return the lines of the page: the first bad rows, and counts by kind if there are more."""
        yield from map(str, self._page)
        if self._left_out:
            yield f"{self._left_out:,} more faults are not shown. All faults by kind:"
            for kind in sorted(self._kinds.values(), key=lambda kind: -kind.count):
                yield f"{kind.count:,} times {kind.text} (first: {kind.first.place})"
            if not self._file:
                yield "To have every fault in a file: make import REPORT=faults.json, or --report faults.json"
        counts = ", ".join(f"bad {file}: {len(rows):,}" for file, rows in self._bad.items())
        yield f"refused: nothing was imported; {counts}"
