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


@dataclass
class TooManyStreamsError(Exception):
    """This process already has the allowed number of streams open."""

    limit: int
    what: str
    """What is counted, in words: ``exports``, ``streams and waiting requests``."""
