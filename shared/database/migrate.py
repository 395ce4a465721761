"""Apply pending migrations: ``python -m shared.database.migrate``.

It may run at every start, and any number of times at once: one migrator works, and the others wait for it.
"""

from __future__ import annotations

import asyncio
import io
import re
import sys
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from shared.command_output import print_line
from shared.database.engine import DB, DatabaseUnavailableError, translate_connection_errors
from shared.database.locks import MIGRATOR_LOCK
from shared.database.statements import fetch_value, fetch_values
from shared.database.stored_cell import store_cell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


REQUIRED_POSTGRESQL = 18
"""The major version. Statements use ``uuidv7()``, which is new in it."""

_PAUSE_SECONDS = 0.2

_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_ID = re.compile('^ID = "(.+)"$', re.MULTILINE)


class MigrationFailedError(Exception):
    """A migration could not be applied; its changes are rolled back."""


@asynccontextmanager
async def _only_migrator() -> AsyncIterator[None]:
    # On a connection of its own: Piccolo runs each migration in a transaction on another one.
    connection = await DB.connect()
    try:
        async with translate_connection_errors():
            # Not pg_advisory_lock: CREATE INDEX CONCURRENTLY, in a migration of the one that works, waits for
            # every statement that has begun, so also for one that waits for the lock.
            while not await connection.fetchval(f"SELECT pg_try_advisory_lock({MIGRATOR_LOCK})"):  # noqa: ASYNC110 (another process has it)
                await asyncio.sleep(_PAUSE_SECONDS)
        yield
    finally:
        await connection.close()


async def migrate() -> int:
    """Apply the pending migrations; return how many there were.

    Raises:
        MigrationFailedError: the server is too old, the schema too new, or a migration could not be applied.
        OtherCellError: OMS_CELL is set, and the database is of another cell.

    """
    async with _only_migrator():
        await _check_version()
        differences = await compare_migrations()
        if not differences.is_compatible:
            raise MigrationFailedError(
                "a newer version of this service has removed from the schema what this one needs"
            )
        pending = differences.pending
        if pending == 0:
            await _store_cell()
            return 0
        # Imported only if a migration is pending: Piccolo's commands import a code formatter, which takes
        # time, and most starts apply nothing.
        from piccolo.apps.migrations.commands.forwards import run_forwards

        # Piccolo's output is not for the user, but its last line names the migration that failed.
        piccolo_output = io.StringIO()
        try:
            with redirect_stdout(piccolo_output):
                result = await run_forwards("shared")
        except BaseException:
            for line in piccolo_output.getvalue().splitlines()[-1:]:
                print_line(line, level="error")
            raise
        if not result.success:
            raise MigrationFailedError(result.message or "a migration failed")
        await _store_cell()
    return pending


async def _store_cell() -> None:
    connection = await DB.connect()
    try:
        await store_cell(connection)
    finally:
        await connection.close()


async def _check_version() -> None:
    version = await fetch_value(str, "SHOW server_version")
    if (
        await fetch_value(int, "SELECT current_setting('server_version_num')::int / 10000")
        < REQUIRED_POSTGRESQL
    ):
        raise MigrationFailedError(f"PostgreSQL {REQUIRED_POSTGRESQL} or newer is needed; this is {version}")


@dataclass(frozen=True)
class MigrationDifferences:
    """How the database's migrations differ from the code's."""

    pending: int
    """How many the code has and the database does not."""
    unknown: int
    """How many the database has and the code does not: a newer version of the code applied them."""
    is_compatible: bool
    """Whether the code works on the schema, once the pending ones are applied."""


async def compare_migrations() -> MigrationDifferences:
    """Compare the migrations that the database has with those of the code."""
    applied: frozenset[str] = frozenset()
    if await fetch_value(bool, "SELECT to_regclass('migration') IS NOT NULL"):
        applied = frozenset(await fetch_values(str, "SELECT name FROM migration WHERE app_name = 'shared'"))
    in_code = _migrations_in_code()
    unknown = len(applied - in_code)
    # Nothing that the code knows takes away what the code needs.
    is_compatible = unknown == 0 or await _oldest_compatible_migration() in {None, *in_code}
    return MigrationDifferences(len(in_code - applied), unknown, is_compatible)


async def _oldest_compatible_migration() -> str | None:
    """Return what the schema says; None if it is of a release that said nothing."""
    if await fetch_value(bool, "SELECT to_regprocedure('oldest_compatible_migration()') IS NULL"):
        return None
    return await fetch_value(str, "SELECT oldest_compatible_migration()")


@cache
def _migrations_in_code() -> frozenset[str]:
    sources = (path.read_text(encoding="utf-8") for path in _MIGRATIONS.glob("shared_*.py"))
    return frozenset(match[1] for match in map(_MIGRATION_ID.search, sources) if match)


def main() -> int:
    """Run from the command line; 0 when the schema is up to date."""
    try:
        applied = asyncio.run(migrate())
    # asyncpg's errors that remain are permanent: a database that does not exist, a role without privileges.
    except (
        DatabaseUnavailableError,
        MigrationFailedError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        OSError,
    ) as error:
        # PostgreSQL may add lines of detail and hints; print one line.
        reason = " ".join(str(error).split()) or type(error).__name__
        print_line(f"migrate: {reason}", level="error")
        return 1
    print_line(f"migrations applied: {applied}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
