"""The cell that the database is of: stored by the migrations, and compared whenever a process starts.

``OMS_CELL`` and ``OMS_CELL_NUMBER`` are stored by the migrations (``shared/database/migrate.py``) that first
run with them, because from then on orders have ids of that range and subscribers see that name. A process
with other settings refuses to start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.cells import CALLERS_RANGE, SERVER_RANGE, Cell, own_cell
from shared.command_output import StartRefusedError
from shared.database.statements import fetch_optional

if TYPE_CHECKING:
    import asyncpg

_STORED = "SELECT name, number FROM cell WHERE id = 1"

_FOREIGN_IDS = """
SELECT id FROM (
    (SELECT id FROM orders WHERE id < $4 OR (id >= $3 AND id < $1) OR id > $2 LIMIT 1)
    UNION ALL (SELECT id FROM deleted_order WHERE id < $4 OR (id >= $3 AND id < $1) OR id > $2 LIMIT 1)
) AS outside
"""


class OtherCellError(StartRefusedError):
    """OMS_CELL or OMS_CELL_NUMBER is not what the database has stored."""


async def stored_cell() -> Cell | None:
    """Return the cell that the database is of; None if it is of none.

    Raises:
        DatabaseUnavailableError: it can't be read, or there are no tables yet.

    """
    return await fetch_optional(Cell, _STORED)


def disagreement(own: Cell | None, stored: Cell | None) -> tuple[str, str] | None:
    """Return how the settings disagree with the database, and what to do; None if they agree."""
    if own == stored:
        return None
    if stored is None:
        assert own is not None  # noqa: S101 (they differ)
        return (
            f"OMS_CELL is {own.name}, and the database is of no cell",
            "run the migrations with OMS_CELL and OMS_CELL_NUMBER, or set neither",
        )
    is_of = f"the database is of cell {stored.name}, number {stored.number}"
    set_both = f"set OMS_CELL={stored.name} and OMS_CELL_NUMBER={stored.number}, or correct OMS_DATABASE_URL"
    if own is None:
        return f"OMS_CELL is not set, and {is_of}", set_both
    return f"OMS_CELL is {own.name} and OMS_CELL_NUMBER is {own.number}, and {is_of}", set_both


async def check_cell() -> None:
    """Check that the database is of the cell of the settings, or of none like them.

    Raises:
        OtherCellError: it is of another.
        DatabaseUnavailableError: it can't be read, or there are no tables yet.

    """
    faults = disagreement(own_cell(), await stored_cell())
    if faults:
        raise OtherCellError(f"{faults[0]}: {faults[1]}")


async def store_cell(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Make the database that of the cell of the settings, once: store its name, and move its sequences.

    Only the sequences' owner can do it, so the migrations do. Changes that have a position by now keep
    the source ``/orders``: subscribers have read them.

    Raises:
        OtherCellError: the database is of another cell, or has ids of another one's range.

    """
    own = own_cell()
    if own is None:
        return
    async with connection.transaction():
        # No position is assigned meanwhile.
        last = await connection.fetchval("SELECT last_position FROM change_log WHERE id = 1 FOR UPDATE")
        row = await connection.fetchrow(_STORED)
        if row is not None:
            faults = disagreement(own, Cell(row["name"], row["number"]))
            if faults:
                raise OtherCellError(f"{faults[0]}: {faults[1]}")
            return
        ids = own.server_ids
        foreign = await connection.fetchval(
            _FOREIGN_IDS, ids.start, ids.stop - 1, SERVER_RANGE, own.callers_ids.start
        )
        if foreign is not None:
            its_cell = foreign // SERVER_RANGE or max(1, foreign // CALLERS_RANGE)
            raise OtherCellError(
                f"OMS_CELL_NUMBER is {own.number}, and the database has an order {foreign}, an id of cell "
                f"{its_cell}: use that number"
            )
        await connection.execute(
            "INSERT INTO cell (id, name, number, starts_after) VALUES (1, $1, $2, $3)",
            own.name,
            own.number,
            last,
        )
        for sequence in ("orders_id_seq", "service_id_seq"):
            reached = await connection.fetchval(f"SELECT last_value FROM {sequence}")
            again = "" if reached in ids else f"RESTART WITH {ids.start}"
            await connection.execute(
                f"ALTER SEQUENCE {sequence} MINVALUE {ids.start} MAXVALUE {ids.stop - 1} "
                f"START WITH {ids.start} {again}"
            )
