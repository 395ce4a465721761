"""Sends the requests of a file over HTTP/1.1, in their order, and prints one line of JSON.

    python -m bench.generator PORT FILE SECONDS [--once] [--rate REQUESTS_PER_SECOND]

It does what wrk does with ``bench/wrk.lua``, for machines without wrk, with about ten times its CPU; and it
can send at a given rate. The file has raw requests, each ended by a NUL byte. Without ``--once`` they are
repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, cast

import uvloop

from bench.figures import percentile

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 32


class _Connection(asyncio.Protocol):
    """One connection: it sends a request when the answer to the one before is complete."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._received = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._run.idle(self)

    def send(self, request: bytes) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received = received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = received[:end].lower()
        status = int(head[9:12])
        start = head.find(b"content-length:")
        if start >= 0:
            length = int(head[start + 15 : (head + b"\r").index(b"\r", start)])
        elif status in (204, 304):
            length = 0
        else:
            raise ValueError(f"an answer without Content-Length: {head!r}")
        if len(received) < end + 4 + length:
            return
        self._received = b""
        self._run.record(status, time.perf_counter() - self._sent_at)
        self._run.idle(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._run.lost(error)

    def close(self) -> None:
        self._transport.close()


class _Run:
    """One run: the connections take requests until the time is over or there are none left."""

    def __init__(self, requests: list[bytes], seconds: float, rate: float | None, *, once: bool) -> None:
        self._requests: Iterator[bytes] = iter(requests) if once else itertools.cycle(requests)
        self._seconds = seconds
        self._rate = rate
        self._idle: list[_Connection] = []
        self._connections: list[_Connection] = []
        self.statuses: Counter[int] = Counter()
        self.latencies: list[float] = []
        self.broken = 0
        self._began = self._ended = 0.0
        self._over = asyncio.Event()
        self._sent = 0

    async def run(self, port: int) -> float:
        """Send all; return the seconds that it took."""
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port)
            self._connections.append(connection)
        self._began = time.perf_counter()
        loop.call_later(self._seconds, self._end)
        if self._rate is None:
            for connection in self._idle:
                self._send_next(connection)
        else:
            loop.call_soon(self._send_due)
        await self._over.wait()
        for connection in self._connections:
            connection.close()
        return self._ended - self._began

    def idle(self, connection: _Connection) -> None:
        """Take a connection whose answer is complete."""
        if self._rate is None and self._began and not self._ended:
            self._send_next(connection)
        else:
            self._idle.append(connection)

    def record(self, status: int, seconds: float) -> None:
        """Record an answer, unless the time is over."""
        if not self._ended:
            self.statuses[status] += 1
            self.latencies.append(seconds)

    def lost(self, error: Exception | None) -> None:
        """Record a connection that the server closed, or that failed."""
        if not self._ended:
            self.broken += 1
            if error is not None or self.broken == CONNECTIONS:
                self._end()

    def _send_next(self, connection: _Connection) -> None:
        request = next(self._requests, None)
        if request is not None:
            self._sent += 1
            connection.send(request)
        elif self.statuses.total() == self._sent:
            self._end()

    def _send_due(self) -> None:
        """Send what is due at the rate. If no connection is idle, the rate is not reached."""
        if self._ended or self._rate is None:
            return
        due = int((time.perf_counter() - self._began) * self._rate) - self._sent
        for _ in range(min(due, len(self._idle))):
            # The longest idle one: a server closes connections that it gets no request from.
            self._send_next(self._idle.pop(0))
        asyncio.get_running_loop().call_later(0.001, self._send_due)

    def _end(self) -> None:
        if not self._ended:
            self._ended = time.perf_counter()
            self._over.set()


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--rate", type=float)
    arguments = parser.parse_args()
    requests = [request for request in arguments.file.read_bytes().split(b"\0") if request]
    run = _Run(requests, arguments.seconds, arguments.rate, once=arguments.once)
    seconds = await run.run(arguments.port)
    result = {
        "requests": run.statuses.total(),
        "seconds": seconds,
        "errors": sum(count for status, count in run.statuses.items() if status >= 400),
        "broken": run.broken,
        "p50_ms": percentile(run.latencies, 50) * 1e3,
        "p99_ms": percentile(run.latencies, 99) * 1e3,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    uvloop.run(_main())
