"""Bring the schema up to date: ``python -m shared.database.migrate``; any number at once, at every start."""

from __future__ import annotations

import asyncio
import io
import re
import sys
from contextlib import asynccontextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from shared.database.engine import DB, DatabaseUnavailableError, translate_connection_errors
from shared.database.locks import MIGRATOR_LOCK
from shared.database.rows import row, rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_ID = re.compile('^ID = "(.+)"$', re.MULTILINE)


class MigrationFailedError(Exception):
    """A migration could not be applied; what it had begun is rolled back."""


@asynccontextmanager
async def _only_migrator() -> AsyncIterator[None]:
    # On a connection of its own: Piccolo runs each migration in a transaction elsewhere.
    connection = await DB.connect()
    try:
        async with translate_connection_errors():
            await connection.execute("SET statement_timeout = 0")
            await connection.execute(f"SELECT pg_advisory_lock({MIGRATOR_LOCK})")
        yield
    finally:
        await connection.close()


async def migrate() -> int:
    """Apply the migrations that were not applied yet, and count them.

    Raises:
        MigrationFailedError: one of them could not be applied.

    """
    async with _only_migrator():
        pending = await pending_migrations()
        if pending == 0:
            return 0
        # Here, as most starts find nothing to do: Piccolo's commands bring a code formatter along.
        from piccolo.apps.migrations.commands.forwards import run_forwards

        # Piccolo calls those complete that it has found. Which one it was at is of use when it fails.
        said = io.StringIO()
        try:
            with redirect_stdout(said):
                result = await run_forwards("shared")
        except BaseException:
            print(*said.getvalue().splitlines()[-1:], file=sys.stderr)  # noqa: T201 (a command's own output)
            raise
    if not result.success:
        raise MigrationFailedError(result.message or "a migration failed")
    return pending


async def pending_migrations() -> int:
    """Count the migrations that the code has and the database does not."""
    if not await row("SELECT 1 WHERE to_regclass('migration') IS NOT NULL"):
        return len(_known())
    applied = await rows("SELECT name FROM migration WHERE app_name = 'shared'")
    return len(_known() - {migration["name"] for migration in applied})


@cache
def _known() -> frozenset[str]:
    found = (
        _MIGRATION_ID.search(path.read_text(encoding="utf-8")) for path in _MIGRATIONS.glob("shared_*.py")
    )
    return frozenset(migration[1] for migration in found if migration)


def main() -> int:
    """Run from the command line; 0 when the schema is up to date."""
    try:
        applied = asyncio.run(migrate())
    # Of asyncpg: what no wait mends, such as a database that does not exist or a role that may not.
    except (
        DatabaseUnavailableError,
        MigrationFailedError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        OSError,
    ) as error:
        # PostgreSQL may add lines of detail and advice.
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"migrate: {reason}", file=sys.stderr)  # noqa: T201 (a command's own output)
        return 1
    print(f"migrations applied: {applied}")  # noqa: T201 (as above)
    return 0


if __name__ == "__main__":
    sys.exit(main())
