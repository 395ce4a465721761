"""What `make bench-scale` measures with; it is run by hand."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from bench.export_memory import measure_export
from bench.large_database import CALENDARS, LargeDatabase
from bench.memory import MemorySamples
from bench.processes import Server
from bench.scale_report import table
from bench.scale_works import ScaleWorks
from stack.embedded_valkey import free_port
from tests.drivers import Api, Database
from tests.processes import NO_REDIS, ROOT, environment

if TYPE_CHECKING:
    from pathlib import Path

ORDERS = 40 * CALENDARS

_SCHEMA = """
SELECT pg_get_indexdef(indexrelid) AS definition FROM pg_index
WHERE indrelid = ANY ('{orders,ordered_service,order_change}'::regclass[])
UNION ALL
SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = ANY ('{orders,ordered_service,order_change}'::regclass[])
UNION ALL
SELECT tgname || ' ' || tgenabled::text FROM pg_trigger
WHERE tgrelid = ANY ('{orders,ordered_service,order_change}'::regclass[])
ORDER BY definition
"""


def test_a_filled_database_is_like_one_that_was_used(
    new_database_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """It has the same schema, its summaries are proved, every request works, and orders can be created."""
    filled = LargeDatabase(new_database_url, ORDERS)
    filled.fill()
    port = free_port()
    server = Server(
        "api",
        [sys.executable, "-m", "api.server"],
        environment(new_database_url, NO_REDIS, OMS_PORT=str(port)),
        ROOT,
        tmp_path / "api.log",
    )
    with Database(new_database_url) as database, Database(postgres_url) as migrated:
        assert database.rows(_SCHEMA) == migrated.rows(_SCHEMA)
        assert database.too_close_pairs() == []
        try:
            server.start()
            server.wait_for(port, "/orders?limit=1")
            works = ScaleWorks(filled, port)
            for name, path in works.reads.items():
                works.check(name, path)
            body = works.creates(1)[0].partition(b"\r\n\r\n")[2]
            with Api(port) as api:
                assert api.client.post("/orders", json=json.loads(body)).status_code == 201
            export = measure_export(filled, server, port)
        finally:
            server.stop()
        assert database.value("SELECT count(*) FROM order_change WHERE position IS NULL") == 1
    assert export["orders"] == ORDERS + 1
    assert export["api_peak_mb"] > 0


def test_memory_is_read_before_during_and_after() -> None:
    numbers = iter(range(1_000))
    with MemorySamples(lambda: {"a": next(numbers)}, every=60) as samples:
        pass
    assert [sample["a"] for _, sample in samples.taken] == [0, 1, 2]


def test_the_table_has_each_ratio_and_each_process() -> None:
    results: dict[str, Any] = {
        "orders": [10_000, 1_000_000],
        "works": {"get": {"ms": [0.2, 0.21], "cpu_ms": [0.3, 0.3], "ratio": 1.05, "cpu_ratio": 1.0}},
        "export": {
            "orders": 1_000_000,
            "mb": 280.0,
            "seconds": 5.0,
            "orders_per_second": 200_000,
            "api_before_mb": 75.0,
            "api_peak_mb": 79.0,
            "api_after_mb": 76.0,
        },
        "memory": {
            "operations": 200_000,
            "settled_after": 20_000,
            "processes": {"relay": {"start_mb": 60, "settled_mb": 61, "end_mb": 62, "peak_mb": 63}},
        },
    }
    text = table(results)
    assert "| get | 0.200 | 0.210 | 1.05 | 1.00 |" in text
    assert "before 75 MB, peak 79 MB, after 76 MB" in text
    assert "| relay | 60 | 61 | 62 | 63 |" in text
