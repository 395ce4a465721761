"""Who sends a request, and what it may do. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from api.http.scopes import ANY_KEY, EVERYTHING, KEYS_MANAGE

READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class UsedKey:
    """A key in the database, with the one of its secrets that was used."""

    id: str
    hash: bytes


@dataclass(frozen=True)
class Caller:
    """The caller of a request: the name of its key or the subject of its token, and what that allows."""

    name: str
    scopes: frozenset[str]
    reads_all: bool = False
    """Whether it may read wherever a key may read, except keys: the role ``read``."""
    key: UsedKey | None = None
    """Its key, if that is in the database."""
    token_ends_at: float | None = None
    """When its access token expires, in seconds of Unix time; None if it sent none."""

    def may(self, scope: str, method: str) -> bool:
        """Return whether it may send this method to a route with this scope."""
        return (
            scope in self.scopes
            or (scope == ANY_KEY and bool(self.scopes))
            or (self.reads_all and method in READING and scope != KEYS_MANAGE)
        )


ANYONE = Caller("anyone", EVERYTHING)
