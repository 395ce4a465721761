"""Whether orders can be stored, and if not, why: in words, without names of hosts, roles or databases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asyncpg.exceptions import TargetServerAttributeNotMatched

from api.operations.time_limit import within
from shared.database.engine import DatabaseUnavailableError, OverloadedError
from shared.database.migrate import compare_migrations
from shared.database.poolers import PoolerMisusedError
from shared.database.sessions import sqlstate_of
from shared.database.statements import fetch_value, fetch_values

DATABASE_TIMEOUT_SECONDS = 3.0

_IS_READ_ONLY = "SELECT current_setting('transaction_read_only')::bool"

NEEDED_PRIVILEGES = {
    "orders": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "calendar": ("SELECT", "INSERT", "UPDATE"),
    "service": ("SELECT",),
    "ordered_service": ("SELECT", "INSERT", "DELETE"),
    "order_change": ("INSERT",),
    "claimed_order_id": ("SELECT", "INSERT"),
    "deleted_order": ("SELECT", "INSERT", "UPDATE"),
    "imported_place": ("SELECT",),
    "idempotency_key": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "api_key": ("SELECT",),
    "api_key_old_secret": ("SELECT",),
    "orders_id_seq": ("USAGE",),
    "order_import_id_seq": ("USAGE",),
    "order_change_id_seq": ("USAGE",),
}
"""What creating, changing and deleting an order needs, its triggers and the check of its API key included."""

_MISSING_PRIVILEGES = """
SELECT privilege || ' on ' || name
FROM unnest($1::text[], $2::text[]) AS needed (name, privilege)
WHERE CASE privilege
    WHEN 'USAGE' THEN NOT has_sequence_privilege(name, privilege)
    ELSE NOT has_table_privilege(name, privilege)
END
"""

Database = Literal["ok", "unavailable", "refused", "standby", "read_only", "not_permitted"]
Migrations = Literal["ok", "pending", "newer", "unknown"]


@dataclass(frozen=True)
class Storability:
    """Whether orders can be stored."""

    database: Database = "ok"
    migrations: Migrations = "ok"
    reason: str = ""
    """Why orders can't be stored, as part of a sentence; empty if they can."""


_REFUSALS: dict[str, tuple[Database, str]] = {
    "25006": ("read_only", "the database is read-only"),
    "28": ("refused", "the database refuses the role or the password"),
    "3D000": ("refused", "the database does not exist"),
    "42501": ("not_permitted", "the database role lacks a privilege"),
    "53100": ("unavailable", "the database's disk is full"),
    "53300": ("unavailable", "the database allows no more connections"),
    "55000": ("refused", "the database accepts no connections"),
    "57014": ("unavailable", "the database took too long"),
    "57P03": ("unavailable", "the database server is starting or stopping"),
}
"""By the beginning of the SQLSTATE."""


async def check_storability() -> Storability:
    """Check whether a request could store an order now, within a few seconds."""
    try:
        return await within(DATABASE_TIMEOUT_SECONDS, _check())
    except TimeoutError:
        return Storability("unavailable", "unknown", "the database does not answer in time")
    except DatabaseUnavailableError as error:
        return _unavailable(error)


async def _check() -> Storability:
    migrations = await compare_migrations()
    if migrations.pending:
        return Storability(
            "ok",
            "pending",
            f"{migrations.pending} of the migrations are pending; run shared.database.migrate",
        )
    if not migrations.is_compatible:
        return Storability(
            "ok",
            "newer",
            "a newer version of this service has removed from the schema what this one needs; "
            "stop this instance",
        )
    # A release serves on while the next one, whose migrations only add, takes over.
    schema: Migrations = "newer" if migrations.unknown else "ok"
    if await fetch_value(bool, _IS_READ_ONLY):
        return Storability("read_only", schema, "the database is read-only")
    names, privileges = zip(
        *((name, privilege) for name, needed in NEEDED_PRIVILEGES.items() for privilege in needed),
        strict=True,
    )
    if missing := await fetch_values(str, _MISSING_PRIVILEGES, names, privileges):
        return Storability("not_permitted", schema, f"the database role lacks {', '.join(missing)}")
    return Storability(migrations=schema)


def _unavailable(error: DatabaseUnavailableError) -> Storability:
    if isinstance(error, OverloadedError):
        return Storability("unavailable", "unknown", "more requests wait for the database than it can serve")
    cause = error.__cause__
    if isinstance(cause, TargetServerAttributeNotMatched):
        return Storability("standby", "unknown", "the database server is a standby")
    if isinstance(cause, PoolerMisusedError):
        return Storability(
            "refused", "unknown", "a pooler is not set up as it must be; `oms doctor` says how"
        )
    if isinstance(cause, TimeoutError):
        return Storability("unavailable", "unknown", "no connection to the database was free in time")
    state = sqlstate_of(cause)
    for begins, (database, reason) in _REFUSALS.items():
        if state.startswith(begins):
            return Storability(database, "unknown", reason)
    return Storability("unavailable", "unknown", "the database can't be reached")
