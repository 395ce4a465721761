"""How many orders per second ``make import`` stores: the whole command, from its start to its end."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psutil

from api.http.json_text import encode
from bench.contestants import ROOT, service_environment
from bench.databases import CALENDARS, create_ours, fetch
from bench.processes import BenchError

if TYPE_CHECKING:
    from pathlib import Path

    from stack.embedded_postgres import EmbeddedPostgres

ORDERS = 60_000
_CALENDARS = CALENDARS // 2
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
_SPACING = timedelta(hours=3)
_POLL_SECONDS = 0.02
_MB = 1024**2


def measure_import(postgres: EmbeddedPostgres, redis_url: str, folder: Path) -> dict[str, float]:
    """Import orders, with their ids, on calendars that have orders of other years.

    Raises:
        BenchError: they were not imported.

    """
    url = postgres.url_of("imported")
    create_ours(postgres.url_of("postgres"), "imported", url, more_calendars=0)
    path = folder / "imported.json"
    path.write_bytes(encode([_order(n) for n in range(ORDERS)]))
    before = fetch(url, "SELECT count(*) FROM orders")[0]["count"]
    began = time.monotonic()
    process = psutil.Popen(
        [sys.executable, "-m", "oms", "import", str(path)],
        cwd=ROOT,
        env=service_environment(url, redis_url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _resident(process))
        time.sleep(_POLL_SECONDS)
    seconds = time.monotonic() - began
    stored = fetch(url, "SELECT count(*) FROM orders")[0]["count"] - before
    if process.returncode != 0 or stored != ORDERS:
        raise BenchError(f"the import ended with {process.returncode}, and {stored:,} orders are stored")
    return {"import_per_second": ORDERS / seconds, "import_mb": peak / _MB}


def _order(n: int) -> dict[str, object]:
    at = _FIRST + n // _CALENDARS * _SPACING
    return {
        "id": n + 1,
        "datetime": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "totalfee": n * 7919 % 100_000 / 100,
        "services": [{"id": "123"}, {"id": "456"}],
        "calendar": f"c{n % _CALENDARS}",
    }


def _resident(process: psutil.Popen) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
