"""Reading one's own writes where reads go to standbys: the header ``Read-After`` of writes and of reads.

The answer to a write names a version of an order that it made. A read that sends it back is answered from
where that version is visible. So is a read with ``min_position`` or ``after_version``, where a route has
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.entity_tags import version_of
from api.http.fields import read_id, read_position
from api.http.parameters import Readers, query_of, read_seconds
from api.http.problems import Fault, malformed
from api.http.request import header_values
from shared.database.read_places import READ_PLACE
from shared.database.standbys import DEFAULT_WAIT_SECONDS, STANDBYS, Needed, OrderVersion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from litestar.handlers import BaseRouteHandler

    from api.http.entity_tags import EntityTags
    from api.http.request import AnyRequest

GREATEST_VERSION = 999_999_999

MAX_VERSIONS = 20
"""How many versions one request may name."""

LONGEST_WAIT_SECONDS = 10


def read_order_version(value: str) -> OrderVersion:
    """Read ``<order>:<version>``.

    Raises:
        ValueError: it is not of that form.

    """
    order_id, _, version = value.partition(":")
    try:
        if read_id(version) <= GREATEST_VERSION:
            return OrderVersion(read_id(order_id), read_id(version))
    except ValueError:
        pass
    raise ValueError("must be an order's id and a version of it, such as 223:1")


READ_AFTER: Readers = {
    "min_position": read_position,
    "after_version": read_order_version,
    "wait": read_seconds(LONGEST_WAIT_SECONDS),
}
"""The parameters of a route that say what its answer must include."""


def read_after(order_id: int | str, version: int) -> dict[str, str]:
    """Return the header of the answer to a write that made this version of an order, and maybe others."""
    return {"Read-After": f"{order_id}:{version}"}


def _versions_of(request: AnyRequest) -> Sequence[OrderVersion]:
    values = header_values(request.scope, b"read-after")
    if not values:
        return ()
    texts = [text.strip(" \t") for text in ",".join(values).split(",")]
    if len(texts) > MAX_VERSIONS:
        raise malformed(Fault(f"may name at most {MAX_VERSIONS} versions", header="Read-After"))
    try:
        return [read_order_version(text) for text in texts]
    except ValueError:
        raise malformed(
            Fault("must be what writes were answered, separated by commas: 223:1, 224:3", header="Read-After")
        ) from None


async def choose_read_place(request: AnyRequest, handler: BaseRouteHandler) -> None:
    """Choose where a request is answered from, if its route may be answered from a standby.

    Raises:
        ProblemError: 400, the header is not what writes are answered with.

    """
    if not handler.opt.get("standby"):
        return
    versions = _versions_of(request)
    if not STANDBYS.all or request.scope.get("reads_primary"):
        return
    STANDBYS.begin_read()
    if handler.opt["standby"] == "parameters":
        query = query_of(request)
        if after := query.get("after_version"):
            versions = [*versions, after]
        position, seconds = query.get("min_position", 0), query.get("wait", DEFAULT_WAIT_SECONDS)
    else:
        position, seconds = 0, DEFAULT_WAIT_SECONDS
    if versions or position:
        await STANDBYS.require(Needed(versions, position), seconds)


async def require_position(position: int) -> None:
    """Have the change log read where it has a position; see ``Standbys.require``."""
    if READ_PLACE.get() is not None:
        await STANDBYS.require(Needed(position=position))


async def require_summaries(position: int) -> None:
    """Have the fee summaries read where they have reached a position."""
    if READ_PLACE.get() is not None:
        await STANDBYS.require(Needed(summaries=position))


async def require_known_version(order_id: int, known: EntityTags | None) -> None:
    """Have an order read where it has the versions that a caller knows, by its entity tags."""
    if READ_PLACE.get() is None or known is None or known.tags is None:
        return
    if version := max(map(version_of, known.tags), default=0):
        await STANDBYS.require(Needed([OrderVersion(order_id, version)]))
