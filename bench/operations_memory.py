"""How much memory a whole system takes, from its start to the end of many operations."""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from bench import works
from bench.contestants import ROOT, service_environment
from bench.databases import fetch, stored_orders
from bench.load import send
from bench.memory import MemorySamples, largest_of
from bench.processes import Server
from stack.embedded_valkey import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MIX = {"create": 3_000, "refused": 1_000, "get": 2_500, "list": 1_000, "patch": 1_500, "delete": 1_000}
"""The operations of one round."""

SETTLED = 20_000
"""After so many operations, memory is to grow no more."""

_MOST_SECONDS = 60
"""For the operations of one kind in one round."""

_CREATED = "SELECT id::text FROM orders WHERE datetime >= $1 ORDER BY id LIMIT $2"
BEHIND = """
SELECT EXISTS (SELECT FROM order_change WHERE position IS NULL)
    OR (SELECT last_position FROM change_log) > (SELECT min(position) FROM consumer_cursor) AS behind
"""
"""Whether relay or worker have not processed every change yet."""


def measure_operations(url: str, redis_url: str, folder: Path, operations: int) -> dict[str, Any]:
    """Run API, relay and worker on a database with orders, and send them operations of all kinds.

    Returns:
        how many operations there were, and for each kind of process its memory in MB: when it had started,
        after ``SETTLED`` operations, at the end, and the peak of a reading each second.

    """
    port = free_port()
    environment = service_environment(url, redis_url, OMS_PORT=str(port))
    api, relay, worker = (
        Server(name, [sys.executable, "-m", module], environment, ROOT, folder / f"memory-{name}.log")
        for name, module in (("api", "api.server"), ("relay", "api.relay.main"), ("worker", "worker.main"))
    )

    def read() -> Mapping[str, float]:
        return {
            "API process": largest_of(api.process),
            "relay": largest_of(relay.process),
            "worker, main process": worker.process.memory_info().rss / 1024**2,
            "worker child": largest_of(worker.process, without_root=True),
        }

    try:
        for server in (api, relay, worker):
            server.start()
        api.wait_for(port, "/orders?limit=1")
        relay.wait_until(lambda: not fetch(url, BEHIND)[0]["behind"])
        with MemorySamples(read, every=1) as samples:
            started = read()
            sent, settled = 0, started
            operation_rounds = _Rounds(url, port, folder)
            while sent < operations:
                sent += operation_rounds.run_once()
                if sent <= SETTLED + sum(_MIX.values()) // 2:
                    settled = read()
                print(f"  {sent:,} operations", flush=True)
            relay.wait_until(lambda: not fetch(url, BEHIND)[0]["behind"])
            ended = read()
    finally:
        for server in (api, relay, worker):
            server.stop()
    return {
        "operations": sent,
        "settled_after": SETTLED,
        "processes": {
            name: {
                "start_mb": round(started[name], 1),
                "settled_mb": round(settled[name], 1),
                "end_mb": round(ended[name], 1),
                "peak_mb": round(max(each[name] for _, each in samples.taken), 1),
            }
            for name in started
        },
    }


class _Rounds:
    def __init__(self, url: str, port: int, folder: Path) -> None:
        self._url = url
        self._port = port
        self._file = folder / "requests"
        self._places = works.Places()
        self._orders = stored_orders(url, ours=True)

    def run_once(self) -> int:
        """Send the operations of one round, one kind after the other; return how many were answered."""
        sent = 0
        for name, count in _MIX.items():
            requests = self._requests(name, count)
            outcome = send(
                self._port,
                requests,
                self._file,
                _MOST_SECONDS,
                refused=name == "refused",
                all_of_them=True,
            )
            sent += int(outcome.requests)
        return sent

    def _requests(self, name: str, count: int) -> list[bytes]:
        if name == "create":
            return self._places.creates(count)
        if name == "delete":
            rows = fetch(self._url, _CREATED, works.PLACES_FROM, count)
            return works.deletes(row["id"] for row in rows)
        if name == "patch":
            return list(islice(works.patches(self._orders), count))
        make = {"refused": works.refused_creates, "get": works.gets, "list": works.lists}[name]
        requests = make(self._orders)
        return (requests * (count // len(requests) + 1))[:count]
