"""The recipe in docs/contract-tests.md: schemathesis with its lines alone, from an empty folder."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.import_steps import import_sample
from tests.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Api

LONGEST_SECONDS = 20


@pytest.mark.timeout(150)
def test_schemathesis_finds_no_deviation_with_the_lines_of_the_documentation(
    api: Api, tmp_path: Path
) -> None:
    """As a consumer runs it: the served contract, and no file of this project."""
    import_sample()
    (recipe,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "contract-tests.md").read_text(), re.DOTALL)
    (tmp_path / "schemathesis.toml").write_text(recipe)
    bounds = ("--seed", "1", "--max-time", str(LONGEST_SECONDS), "--max-examples", "3", "--no-shrink")
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{api.url}/openapi.json", *bounds],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-6_000:]
    assert re.search(r"Test cases:\n +[0-9]{2,} generated", done.stdout), done.stdout
