"""What a benchmark runs on: its own servers, and the machine."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from bench.load import ROOT
from stack.embedded_postgres import EmbeddedPostgres
from stack.embedded_valkey import EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Iterator

_POSTGRES = {"max_connections": "200", "track_commit_timestamp": "on"}
"""Connections for all contestants; and the times from which the latency of summaries is counted."""


@contextmanager
def servers(**settings: str) -> Iterator[tuple[EmbeddedPostgres, EmbeddedValkey, Path]]:
    """Start PostgreSQL, which syncs each commit to disk, and Valkey; the folder is removed in the end.

    The folder is under /var/tmp, as /tmp may be in memory, where a sync costs nothing.

    Args:
        settings: of PostgreSQL, besides those of every benchmark.

    """
    with tempfile.TemporaryDirectory(prefix="oms-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)  # started by root, PostgreSQL runs as another user
        postgres = EmbeddedPostgres(folder / "postgres", settings=_POSTGRES | settings)
        try:
            with postgres, EmbeddedValkey(folder / "valkey") as valkey:
                yield postgres, valkey, folder
        finally:
            if postgres.home.parent != folder:
                shutil.rmtree(postgres.home, ignore_errors=True)


def machine(folder: Path) -> dict[str, object]:
    """Describe this machine, as far as it matters."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gb": round(psutil.virtual_memory().total / 1024**3),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sync_ms": round(_sync_ms(folder), 3),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _sync_ms(folder: Path) -> float:
    """Return how long the disk takes to store 8 KB for certain: the median, in milliseconds."""
    took = []
    with (folder / "sync").open("wb") as file:
        for _ in range(50):
            file.write(b"x" * 8192)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took)


def commit() -> str:
    """Return the revision that was measured; with a plus sign if files differ from it."""
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run(
        [git, "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
