"""Errors of the transport that the problem map answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class IdempotencyKeyReusedError(Exception):
    """An Idempotency-Key was used before, for other content."""

    key: str


@dataclass
class TooManyStreamsError(Exception):
    """This process has as many streams open as it may have."""

    limit: int
    what: str
    """What is counted, in words: ``exports``, ``streams and waiting requests``."""
