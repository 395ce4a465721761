"""Builders of request bodies, valid by default."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)
"""When things happen unless a test says when."""

MILLISECOND = timedelta(milliseconds=1)

SERVICE_IDS = (123, 456, 789)
"""The sample's catalogue."""

EXAMPLE_ORDERS = (223, 224)
"""The orders that the contract's examples name."""

ORDER_FORMAT = 2
"""The format of orders' texts, a part of their entity tags."""


def tag(version: int) -> str:
    """Write the entity tag of an order."""
    return f'"{ORDER_FORMAT}{version:010}"'


def tags(by_version: str) -> str:
    """Write entity tags of orders, each given with its version as one digit: ``W/"1", "2"``."""
    return re.sub(r'"(\d)"', lambda version: tag(int(version[1])), by_version)


def order_body(
    *,
    at: datetime | str | None = NOON,
    fee: float = 100,
    services: tuple[int | str, ...] = (123,),
    **more: Any,
) -> dict[str, Any]:
    """Return the body of a create; ``at=None`` leaves the datetime out."""
    body: dict[str, Any] = {"totalfee": fee, "services": [{"id": service} for service in services], **more}
    if at is not None:
        body["datetime"] = at if isinstance(at, str) else text_of(at)
    return body


def text_of(at: datetime) -> str:
    """Format a datetime as callers do."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def too_close(one: datetime, other: datetime) -> bool:
    """Whether the rule forbids two orders of a calendar at these datetimes."""
    return abs(one - other) < timedelta(hours=3)


def later(**duration: float) -> datetime:
    """Return a datetime that long after noon."""
    return NOON + timedelta(**duration)
