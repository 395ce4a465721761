"""Reading which files were imported."""

from __future__ import annotations

from datetime import datetime

import msgspec

from api.http.json_text import encode_text
from api.http.pages import Page
from api.http.times import utc_text
from shared.database.statements import fetch_all

_LIST = """
SELECT id, file_name, sha256, orders, imported_at FROM order_import
WHERE id < $1 ORDER BY id DESC LIMIT $2
"""

_ABOVE_ALL = 2**63 - 1


class _Import(msgspec.Struct, frozen=True):
    id: int
    file_name: str
    sha256: str
    orders: int
    imported_at: datetime

    def json(self) -> str:
        return encode_text(
            {
                "id": str(self.id),
                "file_name": self.file_name or None,
                "sha256": self.sha256,
                "orders": self.orders,
                "imported_at": utc_text(self.imported_at),
            }
        )


def read_place(before: object) -> int:
    """Read the id in a cursor."""
    if not isinstance(before, int) or not 0 < before <= _ABOVE_ALL:
        raise ValueError("is not an id")
    return before


async def list_imports(before: int | None, limit: int) -> Page:
    """List imports, those that began last first, beginning after the one with the id ``before``."""
    imports = await fetch_all(_Import, _LIST, before or _ABOVE_ALL, limit + 1)
    return Page.of(imports, limit, _Import.json, lambda row: [row.id])
