"""What a change did to an order, member by member. ``static/differences.js`` says the same to open pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_MEMBERS = (
    ("datetime", "Datetime", "time"),
    ("calendar", "Calendar", "text"),
    ("status", "Status", "text"),
    ("totalfee", "Fee", "fee"),
    ("reference", "Reference", "text"),
)


@dataclass(frozen=True)
class Difference:
    """A member before and after: ``kind`` is time, fee or text; None is no value."""

    name: str
    key: str
    kind: str
    old: Any
    new: Any


def differences(previous: Mapping[str, Any] | None, order: Mapping[str, Any] | None) -> list[Difference]:
    """Compare an order before and after a change: services one by one by id, and metadata by key.

    Args:
        previous: before; None if it was created.
        order: after; None if it was deleted.

    """
    old, new = previous or {}, order or {}
    compared = [
        Difference(name, "", kind, old.get(member), new.get(member))
        for member, name, kind in _MEMBERS
        # An earlier release recorded fewer members: what it left out is no difference.
        if not (previous and order) or (member in old and member in new)
    ]
    compared += _elements("Service", _services(old), _services(new))
    compared += _elements("Metadata", _metadata(old), _metadata(new))
    return [each for each in compared if each.old != each.new]


def _services(order: Mapping[str, Any]) -> dict[str, str]:
    return {service["id"]: service["name"] for service in order.get("services", ())}


def _metadata(order: Mapping[str, Any]) -> dict[str, str]:
    # In the order in which JavaScript sorts texts: its objects don't keep the order of keys that are numbers.
    return dict(sorted(order.get("metadata", {}).items(), key=lambda item: item[0].encode("utf-16-be")))


def _elements(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[Difference]:
    return [Difference(name, key, "text", old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new])]
