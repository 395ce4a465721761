"""Follows the live stream of changes on many connections at once, as the browser's EventSource does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from bench.processes import BenchError
from bench.works import render

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PATH = "/console/api/order-changes/stream"

_BUFFER_BYTES = 1 << 20


class Follower:
    """One open stream: after it has ended it asks for what follows the last event, once it may."""

    def __init__(self, port: int, after: int) -> None:
        self.positions: list[int] = []
        """Of all changes, in the order of their arrival."""
        self.arrived: list[float] = []
        """When each of them did, in seconds since 1970."""
        self.opened = 0.0
        """When the first event of the latest connection arrived."""
        self._port = port
        self._after = after
        self._last_event_id = ""
        self._retry_seconds = 3.0

    @property
    def last(self) -> int:
        """The latest position that is known."""
        return int(self._last_event_id or self._after)

    async def follow(self) -> None:
        """Follow until cancelled.

        Raises:
            BenchError: the API answers with something else than a stream.

        """
        while True:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._read_one_stream()
            await asyncio.sleep(self._retry_seconds)

    async def _read_one_stream(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=_BUFFER_BYTES)
        try:
            headers = {"Accept": "text/event-stream", "Sec-Fetch-Site": "same-origin"}
            if self._last_event_id:
                headers["Last-Event-ID"] = self._last_event_id
            writer.write(render("GET", f"{PATH}?after={self._after}", **headers))
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise BenchError(f"GET {PATH} was answered {head.splitlines()[0]!r}")
            is_open = False
            received = b""
            async for chunk in _chunks(reader):
                *events, received = (received + chunk).split(b"\n\n")
                now = time.time()
                if events and not is_open:
                    is_open, self.opened = True, now
                for event in events:
                    self._take(event, now)
                if received.startswith(b"retry: "):  # the last line of a stream has no empty line after it
                    self._take(received, now)
        finally:
            writer.close()

    def _take(self, event: bytes, now: float) -> None:
        fields = dict(line.split(b": ", 1) for line in event.splitlines() if not line.startswith(b":"))
        if b"retry" in fields:
            self._retry_seconds = int(fields[b"retry"]) / 1e3
        if b"id" not in fields:
            return
        self._last_event_id = fields[b"id"].decode()
        if fields[b"event"] != b"position":
            self.positions.append(int(fields[b"id"]))
            self.arrived.append(now)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the chunks of a body; it ends with the body."""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]


@contextlib.asynccontextmanager
async def following(port: int, count: int, after: int) -> AsyncIterator[list[Follower]]:
    """Follow on some connections for the length of the block, which begins when all are open.

    Raises:
        BenchError: of a connection that failed; the block is cancelled.

    """
    followers = [Follower(port, after) for _ in range(count)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(follower.follow()) for follower in followers]
            await wait_until(lambda: all(each.opened for each in followers), "all streams were open")
            yield followers
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def wait_until(condition: Callable[[], bool], meaning: str, seconds: float = 60) -> None:
    """Wait until something is true.

    Raises:
        BenchError: it takes too long; the text says what was to be true.

    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"it took more than {seconds:.0f} s until {meaning}")
        await asyncio.sleep(0.02)


def check_complete(name: str, positions: list[int], first: int, last: int) -> None:
    """Check that each position of a range arrived once, in order.

    Raises:
        BenchError: one is missing or repeated.

    """
    if positions == list(range(first, last + 1)):
        return
    missing = sorted(set(range(first, last + 1)) - set(positions))
    repeated = len(positions) - len(set(positions))
    raise BenchError(
        f"{name} was to receive {first} to {last} in order: {len(missing)} are missing ({missing[:5]}), "
        f"{repeated} repeated"
    )
