"""Scopes: what an API key may be allowed to do. Each route that needs a key declares one. Pure.

@post("/services", opt={"scope": SERVICES_MANAGE})
"""

from __future__ import annotations

ORDERS_READ = "orders:read"
ORDERS_WRITE = "orders:write"
CHANGES_READ = "changes:read"
SUMMARIES_READ = "summaries:read"
WEBHOOKS_MANAGE = "webhooks:manage"
SERVICES_MANAGE = "services:manage"
KEYS_MANAGE = "keys:manage"

SCOPES = (
    ORDERS_READ,
    ORDERS_WRITE,
    CHANGES_READ,
    SUMMARIES_READ,
    WEBHOOKS_MANAGE,
    SERVICES_MANAGE,
    KEYS_MANAGE,
)

ANY_KEY = "any"
"""In place of a scope: every valid key may use the route."""

EVERYTHING = frozenset(SCOPES)

OF_ROLES = {
    "read": frozenset(scope for scope in SCOPES if scope.endswith(":read")),
    "write": EVERYTHING - {KEYS_MANAGE},
}
"""The scopes of the roles of ``OMS_API_KEYS``. A ``read`` key may also GET whatever a ``write`` key may."""


def in_order(scopes: frozenset[str] | list[str]) -> list[str]:
    """Return scopes in their one order, each once."""
    return [scope for scope in SCOPES if scope in scopes]
