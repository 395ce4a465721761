"""Tickets for the live stream: what a browser's EventSource sends in the URL, as it can't send a header.

A ticket opens the stream for ``LIFETIME_SECONDS`` from its creation, as often as its page has to connect,
through any process: its hash is in the database. It has its creator's right to read changes and no other, and
a stream that it opened ends when the creator's key is revoked or token expires.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from hashlib import sha256

import msgspec

from api.http.callers import Caller, UsedKey
from api.http.errors import InvalidTicketError
from api.http.scopes import CHANGES_READ
from shared.database.statements import fetch_optional, fetch_value

LIFETIME_SECONDS = 60

_TICKET = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)

_STORE = f"""
INSERT INTO stream_ticket (hash, caller, key_id, key_hash, token_ends_at, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + interval '{LIFETIME_SECONDS} seconds') RETURNING expires_at
"""
_READ = """
SELECT caller, key_id, key_hash, extract(epoch FROM token_ends_at)::float8 AS token_ends_at
FROM stream_ticket WHERE hash = $1 AND expires_at > now()
"""


class _Ticket(msgspec.Struct, frozen=True):
    caller: str
    key_id: str | None
    key_hash: bytes | None
    token_ends_at: float | None


def read_ticket(value: str) -> str:
    """Read a ticket, as it is in a query.

    Raises:
        ValueError: it does not have the form of one.

    """
    if not _TICKET.fullmatch(value):
        raise ValueError("must be a ticket from POST /stream-tickets")
    return value


async def make_ticket(caller: Caller) -> tuple[str, datetime]:
    """Make a ticket for a caller; return it and when it expires."""
    ticket = secrets.token_urlsafe(32)
    key_id, key_hash = (caller.key.id, caller.key.hash) if caller.key else (None, None)
    ends_at = None if caller.token_ends_at is None else datetime.fromtimestamp(caller.token_ends_at, UTC)
    expires_at = await fetch_value(datetime, _STORE, _hash(ticket), caller.name, key_id, key_hash, ends_at)
    return ticket, expires_at


async def find_creator(ticket: str) -> Caller:
    """Return who made a ticket; whether they may still follow the changes is not checked.

    Raises:
        InvalidTicketError: it is unknown or has expired.

    """
    row = await fetch_optional(_Ticket, _READ, _hash(ticket))
    if row is None:
        raise InvalidTicketError
    key = UsedKey(row.key_id, row.key_hash) if row.key_id is not None and row.key_hash is not None else None
    return Caller(row.caller, frozenset({CHANGES_READ}), key=key, token_ends_at=row.token_ends_at)


def _hash(ticket: str) -> bytes:
    """Return what is stored of a ticket. It has 256 random bits, so there is nothing to guess: no salt."""
    return sha256(ticket.encode("ascii")).digest()
