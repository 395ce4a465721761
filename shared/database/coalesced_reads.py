"""Reads of single rows that are wanted at the same time, in one statement."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Generic, TypeVar

from shared.database.database_wait import WaitingForDatabase
from shared.database.engine import DB, DatabaseUnavailableError
from shared.database.read_places import READ_PLACE, reading_at
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from shared.database.read_places import ReadPlace

K = TypeVar("K")
R = TypeVar("R")


class CoalescedReads(Generic[K, R]):
    """Reads rows by key: one statement at a time, for all keys that were asked for since the last was sent.

    A caller only joins a statement that has not been sent yet, so it sees everything that was committed
    before it asked. Nobody waits for others to come: a statement is sent as soon as the one before has
    returned. Those who read at a standby join each other only.
    """

    def __init__(self, fetch: Callable[[list[K]], Awaitable[Mapping[K, R]]]) -> None:
        """Read with ``fetch``, which returns the rows that exist, by key."""
        self._fetch = fetch
        self._on_primary = _Reader(fetch, None)
        self._at_standbys: dict[ReadPlace, _Reader[K, R]] = {}

    async def read(self, key: K) -> R | None:
        """Return the row of a key, or None.

        Raises:
            DatabaseUnavailableError: also if the statement before took longer than ``OMS_POOL_WAIT``.
            Exception: whatever ``fetch`` raised; all callers of that statement get it.

        """
        if DB.current_transaction.get() is not None:  # only there is visible what it has written
            return (await self._fetch([key])).get(key)
        place = READ_PLACE.get()
        return await (self._on_primary if place is None else self._reader_at(place)).read(key)

    def _reader_at(self, place: ReadPlace) -> _Reader[K, R]:
        if place not in self._at_standbys:
            self._at_standbys = {old: reader for old, reader in self._at_standbys.items() if not old.is_over}
            self._at_standbys[place] = _Reader(self._fetch, place)
        return self._at_standbys[place]


class _Reader(Generic[K, R]):
    """Those who read at one place."""

    def __init__(self, fetch: Callable[[list[K]], Awaitable[Mapping[K, R]]], place: ReadPlace | None) -> None:
        self._fetch = fetch
        self._place = place
        self._waiting: list[tuple[K, asyncio.Future[R | None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sender: asyncio.Task[None] | None = None

    async def read(self, key: K) -> R | None:
        """Return the row of a key, or None; see ``CoalescedReads.read``."""
        loop = asyncio.get_running_loop()
        row: asyncio.Future[R | None] = loop.create_future()
        self._waiting.append((key, row))
        if self._sender is None:
            # In a context of its own, and in a task, since its first caller may be cancelled.
            self._sender = loop.create_task(self._send(), context=Context())
        elif self._timer is None:
            self._timer = loop.call_later(settings().pool_wait, self._refuse)
        with WaitingForDatabase():
            return await row

    async def _send(self) -> None:
        """Send one statement after the other, until nobody waits."""
        try:
            while callers := self._take_callers():
                await self._send_one(callers)
        finally:
            self._sender = None

    def _take_callers(self) -> list[tuple[K, asyncio.Future[R | None]]]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        callers, self._waiting = self._waiting, []
        return [caller for caller in callers if not caller[1].done()]

    async def _send_one(self, callers: list[tuple[K, asyncio.Future[R | None]]]) -> None:
        try:
            with reading_at(self._place):
                rows = await self._fetch(list({key for key, _ in callers}))
        except Exception as error:  # noqa: BLE001 - each caller raises it
            for _, row in callers:
                if not row.done():
                    row.set_exception(error)
        else:
            for key, row in callers:
                if not row.done():
                    row.set_result(rows.get(key))
        finally:
            for _, row in callers:
                row.cancel()  # no effect if it is done: only if the event loop ends

    def _refuse(self) -> None:
        """Refuse those whose statement was not sent in time; they waited as for a connection."""
        for _, row in self._take_callers():
            error = DatabaseUnavailableError("the statement before took too long")
            error.__cause__ = TimeoutError()
            row.set_exception(error)
