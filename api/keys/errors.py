"""Why a command about API keys is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class KeyNotFoundError(Exception):
    """No key in use has this id."""

    key_id: str


@dataclass
class KeyNameTakenError(Exception):
    """Another key in use has this name, which is how changes name their actor."""

    name: str


@dataclass
class TooManyKeysError(Exception):
    """There are as many keys in use as there may be."""

    most: int


@dataclass
class ScopesNotHeldError(Exception):
    """The caller's key lacks scopes that the new key or secret would have."""

    caller: str
    scopes: Sequence[str]


class NoKeysAskedForError(Exception):
    """No keys are asked for: then any caller could make a key, and shut all others out."""
