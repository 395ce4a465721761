"""CSV (RFC 4180) that no program runs as a formula: each text quoted, formula characters escaped. Pure.

``escape_formula`` and ``unescape_formula`` are inverse, so that an import reads what an export wrote.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from api.http.json_text import encode_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""UTF-8's. Excel reads a file without one in the encoding of its machine."""

# OWASP's list, the characters that Unicode's NFKC turns into = + - @, and the minus sign.
_FORMULA = (
    r"=+@\t\r\-\u2212\uff1d\uff0b\uff0d\uff20\ufb29\ufe62\ufe63\ufe66\ufe6b"
    r"\u207a\u207c\u208a\u208c\u2a75\u2a76"
)
# Some programs split at other separators than the comma, full-width ones too, or at line ends within quotes.
_SEPARATORS = r";,|:\uff0c\uff1a\uff1b\uff5c\ufe50\ufe54\ufe55\t\r\n\v\f\x1c-\x1f\x85\u2028\u2029"
_CELL_BEGINS = f"(?:^|(?<=[{_SEPARATORS}]))"
# Programs skip space, some of them the apostrophe of an earlier escape, and quotes where they begin a cell.
_FORMULA_FOLLOWS = f"(?=(?:[^\\S{_SEPARATORS}]|['\"])*[{_FORMULA}])"
_UNESCAPED = re.compile(_CELL_BEGINS + _FORMULA_FOLLOWS)
_ESCAPED = re.compile(f"{_CELL_BEGINS}'{_FORMULA_FOLLOWS}")


def escape_formula(text: str) -> str:
    """Escape what a spreadsheet would run as a formula: an apostrophe before it makes it text (OWASP).

    Formulas begin a cell, or follow a separator at which some program would begin a cell. An apostrophe that
    is there already gets another, so that ``unescape_formula`` returns the same text.
    """
    return _UNESCAPED.sub("'", text)


def unescape_formula(text: str) -> str:
    """Return the text that ``escape_formula`` was called with."""
    return _ESCAPED.sub("", text)


class EscapedText(str):
    """A text in which formulas are escaped already."""

    __slots__ = ()


def names_cell(names: Iterable[str]) -> EscapedText:
    """Write names as one cell, a JSON array, with each name escaped by itself."""
    return EscapedText(encode_text([escape_formula(name) for name in names]))


def object_cell(texts: Mapping[str, str]) -> EscapedText:
    """Write texts by keys as one cell, a JSON object, with each key and text escaped by itself."""
    return EscapedText(encode_text({escape_formula(k): escape_formula(v) for k, v in texts.items()}))


def csv_lines(lines: Iterable[Iterable[object]]) -> bytes:
    """Return lines of CSV: texts quoted and escaped, numbers as they are; None is an empty cell."""
    return "".join(f"{','.join(map(_cell, cells))}\r\n" for cells in lines).encode()


def _cell(value: object) -> str:
    if isinstance(value, EscapedText):
        return '"{}"'.format(value.replace('"', '""'))
    if isinstance(value, str):
        return '"{}"'.format(escape_formula(value).replace('"', '""'))
    return "" if value is None else str(value)
