"""What is between this deployment and PostgreSQL, and what the migrations may do there."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import msgspec

from oms.checks.findings import Finding, ok, warning, wrong
from shared.database.engine import DB, DatabaseUnavailableError, translate_connection_errors
from shared.database.poolers import PoolerMisusedError, is_pooled
from shared.database.statements import fetch_one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.database.sessions import Session
    from shared.settings import Settings

SESSIONS = 3
"""Sessions of a pooler that are looked at, if it has as many: some may be older than the role's settings."""

HOLD_SECONDS = 1.0
"""How long they are kept from others at most."""

EXTENSION = "btree_gist"

_DATABASE = """
SELECT oid, pg_postmaster_start_time() AS started FROM pg_database WHERE datname = current_database()
"""

_RIGHTS = """
SELECT current_user::text AS role, current_database()::text AS database,
    has_database_privilege(current_database(), 'CREATE') AS may_create,
    has_schema_privilege('public', 'CREATE') AS may_create_tables,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
    EXISTS (SELECT FROM pg_extension WHERE extname = $1) AS is_installed,
    (SELECT bool_or(trusted) FROM pg_available_extension_versions WHERE name = $1) AS is_trusted
"""

_NONE_FREE = warning(
    "pooler",
    "the pooler gave no session in time, so its mode is not known",
    "If PostgreSQL answers, raise default_pool_size, or ask again when there is less to do.",
)


class Rights(msgspec.Struct, frozen=True):
    """What a role needs to apply all migrations, and has or lacks."""

    role: str
    database: str
    may_create: bool
    may_create_tables: bool
    is_superuser: bool
    is_installed: bool
    is_trusted: bool | None
    """Whether CREATE on the database is enough to install the extension; None: it is not available."""


async def check_connections(settings: Settings) -> list[Finding]:
    """Look at what is between; empty if the database can't be reached, which another check says."""
    findings = []
    async with AsyncExitStack() as stack:
        try:
            direct = await _open(stack, serving=False)
            served = await _open(stack, serving=True)
            async with translate_connection_errors():
                findings += await _check_path(served, settings)
                here, there = await served.fetchrow(_DATABASE), await direct.fetchrow(_DATABASE)
        except DatabaseUnavailableError as error:
            misuse = error.__cause__
            if isinstance(misuse, TimeoutError) and settings.database_pooler != "none":
                return [_NONE_FREE]
            if not isinstance(misuse, PoolerMisusedError):
                return []
            return [wrong("pooler", str(misuse.args[0]), misuse.hint or "See docs/operations/poolers.md.")]
    if here != there:
        findings.append(
            wrong(
                "pooler",
                "OMS_DATABASE_DIRECT_URL leads to another database than OMS_DATABASE_URL",
                "Name the same: the relay and the worker would not see the orders that the API stores.",
            )
        )
    return findings


async def _open(stack: AsyncExitStack, *, serving: bool, is_checked: bool = False) -> Session:
    session = await DB.connect(serving=serving, is_checked=is_checked)
    stack.callback(session.terminate)
    return session


async def _check_path(session: Session, settings: Settings) -> list[Finding]:
    mode = settings.database_pooler
    if mode == "none":
        return [ok("pooler", "there is none between")]
    if not await is_pooled(session):
        return [
            warning(
                "pooler",
                f"OMS_DATABASE_POOLER is {mode}, and OMS_DATABASE_URL leads to PostgreSQL directly",
                "Name the pooler in OMS_DATABASE_URL, or set OMS_DATABASE_POOLER=none.",
            )
        ]
    if mode == "transaction":
        with suppress(TimeoutError):  # the pooler has fewer
            async with asyncio.timeout(HOLD_SECONDS), AsyncExitStack() as stack:
                for _ in range(SESSIONS):
                    # Each keeps one of the pooler's sessions, whose settings are checked as it is opened.
                    another = await _open(stack, serving=True, is_checked=True)
                    await stack.enter_async_context(another.transaction())
    return [ok("pooler", f"requests go through a pooler in {mode} mode")]


async def check_migrating_rights() -> list[Finding]:
    """Look at what migrations need; for a database that has none yet."""
    return list(judge_rights(await fetch_one(Rights, _RIGHTS, EXTENSION)))


def judge_rights(rights: Rights) -> Iterator[Finding]:
    """Say what the role lacks to migrate, and who must run what."""
    if rights.is_superuser:
        return
    if not rights.may_create_tables:
        yield wrong(
            "migrations",
            "the role may not create tables",
            f'As the owner of the schema: GRANT CREATE ON SCHEMA public TO "{rights.role}";',
        )
    if rights.is_installed:
        return
    install = f"As the administrator, in this database: CREATE EXTENSION {EXTENSION};"
    if rights.is_trusted is None:
        yield wrong(
            "migrations",
            f"this PostgreSQL does not have the extension {EXTENSION}",
            "Install PostgreSQL's contrib package, or allow the extension in the provider's settings.",
        )
    elif not rights.is_trusted:
        yield wrong("migrations", f"the role may not create the extension {EXTENSION}", install)
    elif not rights.may_create:
        yield wrong(
            "migrations",
            f"the role may not create the extension {EXTENSION}: it lacks CREATE on the database",
            f'{install} Or: GRANT CREATE ON DATABASE "{rights.database}" TO "{rights.role}";',
        )
