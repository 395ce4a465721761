"""Running SQL: statements, and the rows that they return."""

from __future__ import annotations

from typing import Any

from shared.database.engine import DB

Row = dict[str, Any]


async def rows(sql: str, *args: object) -> list[Row]:
    """Run one statement, in the current transaction if there is one, and return its rows.

    For hot paths and for what Piccolo's query builder can't say; arguments stand as ``$1``, ``$2``, ….
    """
    return await DB.fetch(sql, *args)


async def row(sql: str, *args: object) -> Row | None:
    """Run one statement and return its first row, or None."""
    found = await DB.fetch(sql, *args)
    return found[0] if found else None
