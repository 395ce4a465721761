"""Run SQL statements, in the current transaction if there is one; arguments are ``$1``, ``$2``, ….

For hot paths, and for what Piccolo's query builder can't express. Rows are read into a type that names their
columns: a missing or an unexpected column fails where the row is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from shared.database.engine import DB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")


class RowMissingError(LookupError):
    """A statement that must return a row returned none: a bug, or a database without its migrations."""


async def execute(sql: str, *args: object) -> int:
    """Run a statement; return how many rows it inserted, updated, deleted or selected."""
    return await DB.execute(sql, *args)


async def fetch_all(row_type: type[T], sql: str, *args: object) -> list[T]:
    """Run a statement and return its rows.

    Args:
        row_type: a ``msgspec.Struct`` or a dataclass whose fields are the statement's columns.
        sql: the statement.
        args: its arguments.

    """
    return read_rows(row_type, await DB.fetch(sql, *args))


async def fetch_optional(row_type: type[T], sql: str, *args: object) -> T | None:
    """Run a statement and return its first row, or None; see ``fetch_all``."""
    records = await DB.fetch(sql, *args)
    return read_rows(row_type, records[:1])[0] if records else None


async def fetch_one(row_type: type[T], sql: str, *args: object) -> T:
    """Run a statement and return its first row; see ``fetch_all``.

    Raises:
        RowMissingError: it has none.

    """
    row = await fetch_optional(row_type, sql, *args)
    if row is None:
        raise RowMissingError(sql)
    return row


def read_rows(row_type: type[T], records: Sequence[Any]) -> list[T]:
    """Read rows out of the records of one statement; see ``fetch_all``."""
    # By position is four times as fast, and right if every field has its column.
    if records and tuple(records[0].keys()) == row_type.__match_args__:  # type: ignore[attr-defined]
        return [row_type(*record) for record in records]
    return [row_type(**record) for record in records]


def read_row(row_type: type[T], record: Mapping[str, Any]) -> T:
    """Read a row out of a record that has further columns; see ``fetch_all`` for ``row_type``."""
    # Dataclasses and msgspec's Structs both list their fields in ``__match_args__``, which no type declares.
    return row_type(*(record[name] for name in row_type.__match_args__))  # type: ignore[attr-defined]


async def fetch_values(value_type: type[T], sql: str, *args: object) -> list[T]:
    """Run a statement of one column and return its values.

    Raises:
        TypeError: one of them is null, or of another type.

    """
    return [_checked(value_type, record[0], sql) for record in await DB.fetch(sql, *args)]


async def fetch_value(value_type: type[T], sql: str, *args: object) -> T:
    """Run a statement of one column and return the value in its first row.

    Raises:
        RowMissingError: it has no row.
        TypeError: the value is null, or of another type.

    """
    records = await DB.fetch(sql, *args)
    if not records:
        raise RowMissingError(sql)
    return _checked(value_type, records[0][0], sql)


def _checked(value_type: type[T], value: Any, sql: str) -> T:
    if not isinstance(value, value_type):
        raise TypeError(f"{value!r} is not of type {value_type.__name__}: {sql}")
    return value
