"""The commands of Litestar and Piccolo, as CONTRIBUTING names them; and what Celery's own commands see."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.processes import ROOT

if TYPE_CHECKING:
    from tests.drivers import Api


def call(*arguments: str) -> str:
    """Run a module of the virtual environment with the settings of the test's servers; return its output."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


def test_contributing_names_the_commands_that_are_tested_here() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert "-m litestar --app api.app:create_litestar routes" in text
    assert "-m piccolo.main migrations check all" in text


def test_litestar_lists_the_routes(api: Api) -> None:  # noqa: ARG001 (its settings)
    listed = call("litestar", "--app", "api.app:create_litestar", "routes")
    for path in ("/orders", "/orders/{order_id", "/fee-summaries", "/webhooks/{webhook_id", "/health/ready"):
        assert path in listed


def test_piccolo_says_which_migrations_were_applied(api: Api) -> None:  # noqa: ARG001 (a migrated database)
    listed = call("piccolo.main", "migrations", "check", "all")
    assert "True" in listed
    assert "False" not in listed
