"""How fast an API exports orders, and how much memory that takes."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING

from bench.large_database import CALENDARS, at
from bench.memory import MemorySamples, largest_of
from bench.processes import BenchError
from bench.works import text

if TYPE_CHECKING:
    from bench.large_database import LargeDatabase
    from bench.processes import Server

EXPORTED = 1_000_000
_READ_BYTES = 1 << 20


def measure_export(database: LargeDatabase, server: Server, port: int) -> dict[str, float]:
    """Export up to ``EXPORTED`` orders as NDJSON; return the rate, and the largest process' memory in MB.

    Raises:
        BenchError: the export is cut off, or lacks orders.

    """
    days = min(database.orders, EXPORTED) // CALENDARS
    path = f"/orders/export?format=ndjson&from={text(at(0))}&to={text(at(days * CALENDARS))}"
    lines = size = 0
    with MemorySamples(lambda: {"api": largest_of(server.process)}, every=0.2) as samples:
        time.sleep(1)
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise BenchError(f"GET {path} was answered {answer.status}")
        # http.client raises IncompleteRead if the answer is cut off.
        while content := answer.read(_READ_BYTES):
            lines += content.count(b"\n")
            size += len(content)
        connection.close()
        seconds = time.monotonic() - began
        time.sleep(1)
    if lines < days * CALENDARS:
        raise BenchError(f"the export has {lines:,} of {days * CALENDARS:,} orders")
    memory = [each["api"] for _, each in samples.taken]
    return {
        "orders": lines,
        "mb": round(size / 1e6, 1),
        "seconds": round(seconds, 2),
        "orders_per_second": round(lines / seconds),
        "api_before_mb": round(memory[0], 1),
        "api_peak_mb": round(max(memory), 1),
        "api_after_mb": round(memory[-1], 1),
    }
