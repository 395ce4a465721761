"""Which relay leads: the one whose session holds a lock. A leader that has gone silent loses its session.

The lock ends with the session, and the session ends with the process. But a process that is stopped, or whose
host or network is gone without a word, leaves a session that PostgreSQL keeps for hours. So the leader says
something in it twice a second, and a relay that waits ends the session of a leader that has said nothing for
``SILENCE_SECONDS``. If that leader goes on later, two may lead for a moment, which is harmless: positions are
assigned under a lock of their own.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from shared.database.engine import ANSWER_GRACE_SECONDS, translate_connection_errors
from shared.database.locks import RELAY_LOCK
from shared.settings import settings

if TYPE_CHECKING:
    from shared.database.sessions import Session

log = structlog.get_logger("relay")

LEADING_SECONDS = 2.0
"""Pause between two records that this relay works."""

STATEMENT_SECONDS = 0.5
"""Pause between two statements in the session that holds, or waits for, the lock."""

SILENCE_SECONDS = 2.5
"""A leader that has said nothing for this long is gone. Not less: a busy machine may hold it up."""

_RECORD_LEADING = "UPDATE change_log SET led_at = now() WHERE id = 1"

# Only a session that waits for its client: one that waits for PostgreSQL, such as for a synchronous standby,
# is not silent, and must not be interrupted. A session of another role shows no state, and is left alone.
_END_SILENT_LEADER = """
SELECT pid, pg_terminate_backend(pid, 1000) AS has_ended
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = $1::bigint::oid AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND state = 'idle' AND state_change < clock_timestamp() - make_interval(secs => $2)
"""


async def try_to_lead(connection: Session) -> bool:
    """Take the lead for as long as the session lives; return False while another relay works.

    Raises:
        DatabaseUnavailableError: PostgreSQL is unavailable, or can't be written.

    """
    async with translate_connection_errors():
        if not await _take_lock(connection):
            silent = await connection.fetch(
                _END_SILENT_LEADER, RELAY_LOCK, SILENCE_SECONDS, timeout=settings().statement_timeout
            )
            for leader in silent:
                log.warning("silent_leader_ended", session=leader["pid"], has_ended=leader["has_ended"])
            if not silent or not await _take_lock(connection):
                return False
    await _execute(connection, _RECORD_LEADING)
    return True


async def _take_lock(connection: Session) -> bool:
    timeout = settings().statement_timeout
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", RELAY_LOCK, timeout=timeout))


async def keep_leading(connection: Session) -> None:
    """Say that this relay leads, until cancelled: also while a round takes long.

    Raises:
        DatabaseUnavailableError: the session has ended, or its server is gone or became read-only.

    """
    recorded_at = time.monotonic()
    while True:
        await asyncio.sleep(STATEMENT_SECONDS)
        if time.monotonic() - recorded_at < LEADING_SECONDS:
            await _execute(connection, "SELECT")
        else:
            await _execute(connection, _RECORD_LEADING)
            recorded_at = time.monotonic()


async def _execute(connection: Session, sql: str) -> None:
    # If the server does not answer in time the connection is closed. With asyncpg's own time limit the
    # statement would be cancelled, and with it, perhaps, its commit's wait for standbys.
    limit = settings().statement_timeout + ANSWER_GRACE_SECONDS
    closing = asyncio.get_running_loop().call_later(limit, connection.terminate)
    try:
        async with translate_connection_errors():
            await connection.execute(sql)
            connection.check_replicated()
    finally:
        closing.cancel()
