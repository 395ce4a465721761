"""Who looks at a page, what they may do, and in which time zone they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from console.errors import ApiRefusalError
from console.requests import ask
from console.sessions import key_of, zone_name_of
from shared.settings import settings

if TYPE_CHECKING:
    from console.requests import PageRequest


_UTC = ZoneInfo("UTC")


@dataclass(frozen=True)
class Visitor:
    """Who looks at a page. Templates ask it which buttons to show; the API decides all the same."""

    name: str = ""
    scopes: frozenset[str] = frozenset()
    reads_all: bool = False
    has_session: bool = False
    zone: ZoneInfo = _UTC
    keys_required: bool = True

    def may(self, scope: str) -> bool:
        """Return whether they may do what needs a scope."""
        return scope in self.scopes

    def may_read(self, scope: str) -> bool:
        """Return whether they may read what needs a scope."""
        return scope in self.scopes or (self.reads_all and scope != "keys:manage")


async def visitor_of(request: PageRequest) -> Visitor:
    """Ask the API who the visitor is; an unknown one, who may do nothing, while that can't be known.

    Raises:
        ApiRefusalError: 401, they have to sign in.

    """
    visitor: Visitor | None = request.scope.get("visitor")  # type: ignore[assignment]  # a key of our own
    if visitor is None:
        visitor = await _identify(request)
        request.scope["visitor"] = visitor  # type: ignore[typeddict-unknown-key]  # as above
    return visitor


def known_visitor_of(request: PageRequest) -> Visitor:
    """Return the visitor as far as this request has asked already."""
    visitor: Visitor | None = request.scope.get("visitor")  # type: ignore[assignment]  # as above
    return visitor or Visitor(has_session=key_of(request.scope) is not None, zone=_zone_of(request))


async def _identify(request: PageRequest) -> Visitor:
    zone, has_session = _zone_of(request), key_of(request.scope) is not None
    try:
        caller = (await ask(request, "/caller")).data
    except ApiRefusalError as refusal:
        if refusal.status == 401:
            raise
        return Visitor(has_session=has_session, zone=zone)
    return Visitor(
        name=caller["name"],
        scopes=frozenset(caller["scopes"]),
        reads_all=caller["reads_all"],
        has_session=has_session,
        zone=zone,
        keys_required=caller["keys_required"],
    )


def service_zone() -> ZoneInfo:
    """Return the zone in which the service counts days."""
    return ZoneInfo(str(settings().time_zone))


def _zone_of(request: PageRequest) -> ZoneInfo:
    name = zone_name_of(request.scope)
    try:
        return ZoneInfo(name) if name else service_zone()
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return service_zone()
