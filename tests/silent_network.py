"""A network between a process and PostgreSQL that can fall silent: nothing arrives, and nobody is told."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SOCKET = ".s.PGSQL.5432"


class SilentNetwork:
    """Forwards between a socket in a folder of its own and PostgreSQL's, unless it is silent."""

    def __init__(self, folder: Path, postgres_url: str) -> None:
        self._there = next(iter(parse_qs(urlsplit(postgres_url).query)["host"]))
        self._here = folder
        self.url = postgres_url.replace(quote(self._there, safe="/"), quote(str(folder), safe="/"))
        self._speaks = threading.Event()
        self._speaks.set()
        self._over = threading.Event()
        self.listening = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def fall_silent(self) -> None:
        """Forward nothing from now on, not even that one side has closed its connection."""
        self._speaks.clear()

    def speak(self) -> None:
        """Break all connections of before, and forward those that come now."""
        assert self._loop
        asyncio.run_coroutine_threadsafe(self._break_connections(), self._loop).result(5)
        self._speaks.set()

    def end(self) -> None:
        """End everything."""
        self._over.set()

    async def _break_connections(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if not self._speaks.is_set():
                    return
                writer.write(data)
            if self._speaks.is_set():
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if not self._speaks.is_set():
            return
        from_server, to_server = await asyncio.open_unix_connection(f"{self._there}/{_SOCKET}")
        self._writers.add(to_server)
        with suppress(asyncio.CancelledError):  # the end
            await asyncio.gather(self._forward(reader, to_server), self._forward(from_server, writer))

    async def listen(self) -> None:
        """Serve until the end."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_unix_server(self._serve, self._here / _SOCKET)
        self.listening.set()
        await asyncio.to_thread(self._over.wait)
        server.close()
        await self._break_connections()


@contextmanager
def silent_network(folder: Path, postgres_url: str) -> Iterator[SilentNetwork]:
    """Run such a network for the length of the block; at first it forwards all."""
    network = SilentNetwork(folder, postgres_url)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(asyncio.run, network.listen())
        try:
            assert network.listening.wait(5)
            yield network
        finally:
            network.end()
            running.result(10)
