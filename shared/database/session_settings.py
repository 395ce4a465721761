"""What every session of PostgreSQL must have set, and how it gets it: directly, or through a pooler.

PgBouncer refuses most settings in the packet that opens a session. In transaction mode each transaction may
run in another of the server's sessions: a SET is lost, or stays for others. ``OMS_DATABASE_POOLER`` is one of

- ``none``: the settings are sent as the session is opened, which costs nothing.
- ``session``: they are SET in one statement right after.
- ``transaction``: the role or the pooler has set them, and each session checks that.

Relay, worker and commands hold session locks, so they use ``OMS_DATABASE_DIRECT_URL``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import structlog
from asyncpg.connect_utils import SessionAttribute

from shared.database.poolers import (
    NOT_KEPT,
    PooledSession,
    PoolerMisusedError,
    keeps_no_statements,
    refuse_wrong_pooler,
    undeclared,
)
from shared.database.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from shared.settings import Settings

log = structlog.get_logger("database")

TRACKED = {"application_name": "oms", "timezone": "UTC"}
"""PgBouncer keeps these for each client, and sets them wherever the client's next transaction runs."""

_UNLIKE = """
SELECT name, setting
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS needed (name, value, place)
JOIN pg_settings USING (name)
WHERE setting <> value ORDER BY place
"""

_TO_ALTER = """
SELECT format('ALTER ROLE %I IN DATABASE %I SET %s = %L', current_user, current_database(), name, value)
FROM unnest($1::text[], $2::text[]) AS needed (name, value)
"""


def limits(settings: Settings, *, serving: bool, positioning: bool = False) -> dict[str, str]:
    """Return what holds for each statement of a session, as ``pg_settings`` writes it: durations in ms.

    Args:
        settings: the time limits.
        serving: the session is of a process that serves requests. The others wait for locks.
        positioning: it is of a process that assigns positions. Its statements are never cancelled: a COMMIT
            that is cancelled while it waits for standbys becomes visible without them.

    """
    longest = f"{int(settings.statement_timeout * 1000)}"
    return {
        "statement_timeout": "0" if positioning else longest,
        "lock_timeout": f"{settings.lock_wait * 1000:.0f}" if serving else longest if positioning else "0",
        "idle_in_transaction_session_timeout": "60000",
        # Also of statements without BEGIN, whatever the role or the database has as its default.
        "default_transaction_isolation": "read committed",
        # Every statement is short and prepared once: compiling it costs more than it saves.
        "jit": "off",
    }


async def open_session(
    config: Mapping[str, Any],
    settings: Settings,
    *,
    serving: bool,
    positioning: bool = False,
    is_checked: bool = True,
) -> Session:
    """Open a session that has all settings.

    Args:
        config: for ``asyncpg.connect``; ``dsn`` is the URL that requests use.
        settings: what is between, and the time limits.
        serving: see ``limits``. Only such a session goes over ``dsn``, if there is a direct URL.
        positioning: see ``limits``.
        is_checked: it is known what is between. If not, it is checked, with a session more.

    Raises:
        OSError, asyncpg.PostgresError, asyncpg.InterfaceError: it can't be opened.
        PoolerMisusedError: a pooler is between that was not declared, or that breaks what the session is for.

    """
    needed = limits(settings, serving=serving, positioning=positioning)
    arguments = _arguments(config, settings, needed, serving=serving)
    session = await _connect(arguments)
    try:
        if settings.database_pooler == "transaction" and serving:
            await _check_settings(session, needed)
        elif settings.database_pooler != "none":
            # Not server_settings: what is named as direct may be a pooler in session mode.
            await session.execute("; ".join(f"SET {name} = '{value}'" for name, value in needed.items()))
        if not is_checked:
            await refuse_wrong_pooler(
                session,
                lambda: asyncpg.connect(**arguments),
                is_declared=settings.database_pooler != "none",
                must_last=not serving or settings.database_pooler != "transaction",
            )
    except BaseException:
        session.terminate()
        raise
    return session


def pool_opener(
    open_one: Callable[..., Awaitable[Session]], *, serving: bool
) -> Callable[[], Awaitable[Session]]:
    """Return what opens the sessions of a pool and checks what is between, once.

    Args:
        open_one: opens a session; ``is_checked`` as for ``open_session``.
        serving: callers are told only that the database is unavailable, so the log says what is misused.

    """
    is_checked = False

    async def open_for_pool() -> Session:
        nonlocal is_checked
        try:
            session = await open_one(is_checked=is_checked)
        except PoolerMisusedError as error:
            if serving:
                log.warning("pooler_misused", reason=str(error))
            raise
        is_checked = True
        return session

    return open_for_pool


async def open_standby_session(config: Mapping[str, Any], settings: Settings) -> Session:
    """Open a session directly, for a process that serves requests, whatever the server can do.

    Raises:
        OSError, asyncpg.PostgresError, asyncpg.InterfaceError: it can't be opened.

    """
    session: Session = await asyncpg.connect(
        **{**config, "server_settings": config["server_settings"] | limits(settings, serving=True)}
    )
    return session


async def _connect(arguments: Mapping[str, Any]) -> Session:
    try:
        session: Session = await asyncpg.connect(**arguments)
    except asyncpg.ProtocolViolationError as error:
        if "startup parameter" not in str(error):
            raise
        raise undeclared() from error
    return session


def _arguments(
    config: Mapping[str, Any], settings: Settings, needed: Mapping[str, str], *, serving: bool
) -> dict[str, Any]:
    """Return what ``asyncpg.connect`` takes."""
    arguments = dict(config)
    is_direct = not serving and bool(settings.database_direct_url)
    if is_direct:
        arguments["dsn"] = settings.database_direct_url
    through_pooler = settings.database_pooler != "none" and not is_direct
    if through_pooler:
        arguments["connection_class"] = PooledSession
        # A statement that is too long to be cached would be prepared in one transaction, without a name, and
        # run in the next.
        arguments["max_cacheable_statement_size"] = 0
    else:
        arguments["server_settings"] = dict(config["server_settings"])
        if settings.database_pooler == "none":
            arguments["server_settings"] |= needed
    if "target_session_attrs=" not in arguments["dsn"]:
        # A standby stores nothing, and what it shows may be older than what callers were answered. Of several
        # hosts, the primary is used. Which server a pooler uses is its own configuration's matter.
        arguments["target_session_attrs"] = (
            SessionAttribute.any if through_pooler else SessionAttribute.primary
        )
    return arguments


async def _check_settings(session: Session, needed: Mapping[str, str]) -> None:
    try:
        unlike = await session.fetch(_UNLIKE, list(needed), list(needed.values()))
        if not unlike:
            return
        names = [row["name"] for row in unlike]
        statements = await session.fetch(_TO_ALTER, names, [needed[name] for name in names])
    except NOT_KEPT as error:
        raise keeps_no_statements() from error
    values = ", ".join(f"{row['name']} = {row['setting']}" for row in unlike)
    raise PoolerMisusedError(
        f"the sessions behind the pooler have {values}",
        hint="; ".join([*(row[0] for row in statements), ""]).strip()
        + " Then RECONNECT in the pooler's console.",
    )
