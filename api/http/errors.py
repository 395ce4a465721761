"""Errors of the transport that the problem map answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class IdempotencyKeyReusedError(Exception):
    """An Idempotency-Key was used before, for other content."""

    key: str


class IncompleteBodyError(Exception):
    """A request's body ended before it was complete, or is not validly chunked."""


class BodyTimeoutError(Exception):
    """A request's body did not arrive in time."""


class TooManyBodiesError(Exception):
    """More bodies, or bytes of bodies, arrive at the same time than this process holds."""


class InvalidTokenError(Exception):
    """An access token is not valid; the message says why, as the predicate of a sentence about the token."""


class ProviderKeysUnavailableError(Exception):
    """The keys of the identity provider can't be read; the message says why."""


class InvalidTicketError(Exception):
    """A stream ticket is unknown or has expired, or its creator may no longer follow the changes."""


@dataclass
class TooManyStreamsError(Exception):
    """This process already has the allowed number of streams open."""

    limit: int
    what: str
    """What is counted, in words: ``exports``, ``streams and waiting requests``."""
