"""Making API keys in the database, as the operator's command does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.processes import run_command

if TYPE_CHECKING:
    from tests.drivers import Database


def key_command(database: Database, *arguments: str) -> str:
    """Run ``oms key`` and return what it printed."""
    ran = run_command("oms", "key", *arguments, database=database.url)
    assert ran.returncode == 0, ran.stderr
    return str(ran.stdout).strip()


def bearer(key: str) -> dict[str, str]:
    """Return the header with a key or a token."""
    return {"Authorization": f"Bearer {key}"}


def make_key(database: Database, name: str, *scopes: str, expires: str | None = None) -> str:
    """Make a key as the operator, and return its text."""
    more = ("--expires", expires) if expires else ()
    return key_command(database, "make", name, "--scopes", ",".join(scopes), *more)
