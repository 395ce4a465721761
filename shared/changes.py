"""The change notification: its shape, encoding and decoding. Pure.

A CloudEvents 1.0 event in JSON. The order's states are carried as PostgreSQL rendered them when they were
recorded, so a notification always has the same bytes, whenever and wherever it is encoded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

SOURCE = "/orders"


def source_in(cell: str | None, collection: str = SOURCE) -> str:
    """Return the ``source`` of notifications about a collection: a URI reference, which a cell's name begins.

    Args:
        cell: the cell's name; None or empty where the installation is none.
        collection: its path, such as ``/webhooks``.

    """
    return f"/cells/{cell}{collection}" if cell else collection


@dataclass(frozen=True)
class Change:
    """What one commit did to one order, at its place in the order of all changes: ``type`` says what."""

    position: int
    event_id: UUID
    type: str
    order_id: int
    order_version: int
    """The order's version after the change. A deletion has a version of its own, one above the last."""
    time: str
    """When it was recorded, RFC 3339 in UTC."""
    order: str | None
    """The order after the change, as JSON text; None when it was deleted."""
    previous: str | None
    """The order before the change, as JSON text; None when it was created."""
    actor: str | None = None
    """Who made it; None if a release recorded it that did not know it."""
    reason: str | None = None
    """Why, if they said it."""
    cell: str | None = None
    """The name of the cell whose change it is; None where there are no cells, or were none yet."""

    def notification(self) -> str:
        """Encode the change as its notification.

        ``sequence`` is the position, as a string of 19 digits: the CloudEvents extension of that name
        requires a string that sorts as text. ``orderversion`` is our own extension: 1, 2, 3, … without a gap
        for each order. It is not read from the order's state, since a deletion has none. So are ``actor`` and
        ``reason``, which are left out if they are not known: CloudEvents has no null.
        """
        attribution = "".join(
            f'"{name}":{json.dumps(text, ensure_ascii=False)},'
            for name, text in (("actor", self.actor), ("reason", self.reason))
            if text is not None
        )
        return (
            f'{{"specversion":"1.0","id":"{self.event_id}","source":"{source_in(self.cell)}","type":"{self.type}",'
            f'"subject":"{self.order_id}","time":"{self.time}","datacontenttype":"application/json",'
            f'"sequence":"{self.position:019}","orderversion":{self.order_version},{attribution}'
            f'"data":{{"order":{self.order or "null"},"previous":{self.previous or "null"}}}}}'
        )
