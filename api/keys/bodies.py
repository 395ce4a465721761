"""The bodies of requests about API keys."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import Field, PlainValidator

from api.http.bodies import Body
from api.http.durations import read_duration
from api.http.scopes import SCOPES, in_order
from api.http.times import read_time

OVERLAP = timedelta(days=1)
LONGEST_OVERLAP = timedelta(days=30)

OWN_NAMES = ("anyone", "import", "operator")
"""What changes have as their actor if no key made them."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def read_name(value: object) -> str:
    """Read the name of a key."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("must be 1 to 64 letters, digits, dots, underscores and hyphens")
    if value in OWN_NAMES:
        raise ValueError("must not be anyone, import or operator: changes that no key made have these actors")
    return value


def read_scopes(value: object) -> list[str]:
    """Read scopes, at least one and each once, into their one order."""
    if not isinstance(value, list) or not value or not all(isinstance(scope, str) for scope in value):
        raise ValueError(f"must be an array of at least one of {', '.join(SCOPES)}")
    if unknown := [scope for scope in value if scope not in SCOPES]:
        raise ValueError(f"must contain only {', '.join(SCOPES)}, not {unknown[0][:40]!r}")
    if len(set(value)) < len(value):
        raise ValueError("must contain each scope once")
    return in_order(value)


def read_expiry(value: object) -> datetime:
    """Read when a key expires."""
    at = read_time(value)
    if at <= datetime.now(UTC):
        raise ValueError("must be in the future")
    return at


def read_overlap(value: object) -> timedelta:
    """Read for how long a secret is accepted beside the one that replaces it."""
    overlap = read_duration(value)
    if overlap > LONGEST_OVERLAP:
        raise ValueError("must be at most 30 days (P30D)")
    return overlap


class NewKey(Body):
    """The body of a create."""

    name: Annotated[str, PlainValidator(read_name)]
    scopes: Annotated[list[str], PlainValidator(read_scopes)]
    expires_at: Annotated[datetime | None, PlainValidator(read_expiry)] = None


class KeyRotation(Body):
    """The body of a rotation."""

    overlap: Annotated[timedelta, PlainValidator(read_overlap)] = Field(default=OVERLAP)
