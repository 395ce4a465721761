"""Cells: complete installations that divide calendars, and whose ids and changes can be told apart. Pure.

``OMS_CELL`` names the cell and ``OMS_CELL_NUMBER`` says which ids it gives out. The database has both too
(``shared/database/stored_cell.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.settings import settings

SERVER_RANGE = 10**15
"""The server's ids of cell *n* are n x 10^15 to (n + 1) x 10^15 - 1: the digits before the last 15 are n."""

CALLERS_RANGE = 10**12
"""Ids of orders that callers choose in cell *n* are n x 10^12 to (n + 1) x 10^12 - 1.

Cell 1 also has those below 10^12, which callers of an installation that became it have chosen.
"""


@dataclass(frozen=True)
class Cell:
    """One of a company's installations."""

    name: str
    number: int
    """1 to 99."""

    @property
    def server_ids(self) -> range:
        """The ids that its sequences give to orders and services."""
        return range(self.number * SERVER_RANGE, (self.number + 1) * SERVER_RANGE)

    @property
    def callers_ids(self) -> range:
        """The ids that callers may choose for orders."""
        return range(
            1 if self.number == 1 else self.number * CALLERS_RANGE, (self.number + 1) * CALLERS_RANGE
        )

    def has_order_id(self, order_id: int) -> bool:
        """Return whether a router that knows only the ranges sends this id to the cell."""
        return order_id in self.server_ids or order_id in self.callers_ids

    @property
    def ids_in_words(self) -> str:
        """What the ids of its orders may be, for a fault."""
        return (
            f"{self.callers_ids.start} to {self.callers_ids.stop - 1} or "
            f"{self.server_ids.start} to {self.server_ids.stop - 1}"
        )


def own_cell() -> Cell | None:
    """Return the cell of the settings; None where the installation is none."""
    given = settings()
    return Cell(given.cell, given.cell_number) if given.cell else None
