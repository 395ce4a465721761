"""The references that callers give to orders: unique among the orders that have one."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

import msgspec

from api.orders.errors import ReferenceTakenError
from shared.database.locks import REFERENCE_BUCKETS, REFERENCE_LOCK
from shared.database.statements import execute, fetch_all

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_FIND = "SELECT reference, id FROM orders WHERE reference = ANY($1::text[])"


class _GivenReference(msgspec.Struct, frozen=True):
    reference: str
    id: int


def buckets_of(references: Iterable[str | None]) -> list[int]:
    """Return the buckets of references, ascending, by which they are locked."""
    return sorted({crc32(reference.encode()) % REFERENCE_BUCKETS for reference in references if reference})


async def lock_references(references: Iterable[str | None]) -> None:
    """Lock references until the transaction ends, against others that set several or hold other locks.

    Without it, two that set the same two references in another order would deadlock.
    """
    buckets = buckets_of(references)
    if buckets:
        await execute(
            "SELECT pg_advisory_xact_lock($1, bucket) FROM unnest($2::int[]) AS bucket",
            REFERENCE_LOCK,
            buckets,
        )


async def find_references(references: Collection[str]) -> dict[str, int]:
    """Return the ids of the orders that have these references, by reference."""
    return {given.reference: given.id for given in await fetch_all(_GivenReference, _FIND, list(references))}


async def refuse_if_reference_is_taken(reference: str | None) -> None:
    """Check that no order has a reference.

    Raises:
        ReferenceTakenError: one has it.

    """
    if reference is None:
        return
    given = await find_references([reference])
    if given:
        raise ReferenceTakenError(reference, given[reference])
