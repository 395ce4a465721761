"""The members of an order: the one list that statements are written from.

Bodies, imports, exports and both contracts are held to it by ``tests/test_order_members.py``. CONTRIBUTING.md
says what else belongs to a new member.
"""

from __future__ import annotations

from typing import Any

from api.http.json_text import encode_text

STORED_AS_SENT = {"datetime": "timestamptz", "totalfee": "numeric", "reference": "text", "metadata": "jsonb"}
"""Members with a column of the same name that holds the value itself; with PostgreSQL's type."""

SETTABLE = (*STORED_AS_SENT, "services", "calendar")
"""Members that callers set, apart from the id, which never changes."""

SET_WHEN_STORED = ("version", "created_at", "updated_at")
"""Members that an order has only once it is stored."""

READ_ONLY = ("status", *SET_WHEN_STORED)
"""Members that only the service sets. Callers may send them back as they read them."""

SHOWN = ("id", *SETTABLE, *READ_ONLY)
"""Members that readers of an order see; ``order_json`` in ``shared/database/schema.sql`` renders them."""

COLUMNS = ", ".join(STORED_AS_SENT)
TYPED_COLUMNS = ", ".join(f"{name} {type_}" for name, type_ in STORED_AS_SENT.items())


def parameters(first: int) -> str:
    """Write the parameters for ``COLUMNS``, numbered from ``first``: ``$4::timestamptz, $5::numeric``."""
    return ", ".join(f"${n}::{type_}" for n, type_ in enumerate(STORED_AS_SENT.values(), first))


def values_of(order: object) -> list[Any]:
    """Return the values for ``COLUMNS``, from a body or a row with attributes of these names."""
    values = (getattr(order, name) for name in STORED_AS_SENT)
    return [encode_text(value) if isinstance(value, dict) else value for value in values]
