"""The ids of a file's orders, compared with those of the cell that the database is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.database.statements import fetch_values
from shared.database.stored_cell import stored_cell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from api.orders.imports.faults import FaultReport
    from api.orders.imports.imported_orders import ImportedOrder

_FIND_IMPORTED_BEFORE = "SELECT order_id FROM imported_place WHERE order_id = ANY($1::bigint[])"


async def check_cell_ids(orders: Mapping[int, ImportedOrder], faults: FaultReport) -> None:
    """Name orders whose ids a router would look for in another cell, unless they were imported here before.

    The cell is the database's, not that of the settings: an import may run with settings of its own.
    """
    cell = await stored_cell()
    if cell is None:
        return
    foreign = {
        place: order.id
        for place, order in orders.items()
        if order.id is not None and not cell.has_order_id(order.id)
    }
    if not foreign:
        return
    known = set(await fetch_values(int, _FIND_IMPORTED_BEFORE, list(foreign.values())))
    for place, order_id in foreign.items():
        if order_id not in known:
            why = f"{order_id} is no id of cell {cell.name}: leave it out, or use {cell.ids_in_words}"
            faults.add("orders", place, ".id", why)
