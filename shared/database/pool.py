"""The sessions of one process, and the line of those who wait for one.

With asyncpg's own pool and a time limit around it, a short read took five times the CPU time of its
statement: it wraps each connection anew, arms and cancels timers, and returns it in a shielded task. Here a
session that is free is taken, and returned, without waiting for anything.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from shared.database.sessions import DRIVER_ERRORS, Session
from shared.database.waiting_line import WaitingLine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

IDLE_SECONDS = 60.0
"""A session that was not used for so long is closed."""

WATCH_SECONDS = 1.0
"""Pause between two looks at which sessions owe an answer."""

SETTLE_SECONDS = 5.0
"""How long a session may take to end what a cancelled caller left behind."""


class Pool:
    """At most ``size`` sessions of one event loop, opened when they are needed.

    Args:
        size: sessions at most.
        connect: opens one.
        longest_answer: a session that owes an answer for longer (seconds) is closed. A server that hangs, or
            waits for standbys, says nothing, and the time limits of statements are its own. The connection
            is closed, and no statement cancelled: a cancelled COMMIT would become visible although no standby
            has it.

    """

    def __init__(
        self, size: int, connect: Callable[[], Awaitable[Any]], longest_answer: float | None = None
    ) -> None:
        self._connect = connect
        self._idle: list[Session] = []
        """Taken from its end, so that those that are not needed stay unused."""
        self._open: set[Session] = set()
        self._places = size
        """How many sessions more may be opened."""
        # Those who wait are handed a session, or, if one was closed, its place: None.
        self._line: WaitingLine[Session | None] = WaitingLine(size, self._keep)
        self._settling: set[asyncio.Task[None]] = set()
        self._closing = False
        self._all_closed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(IDLE_SECONDS / 2, self._close_unused)
        self._watch: asyncio.TimerHandle | None = None
        if longest_answer is not None:
            self._watch = self._loop.call_later(WATCH_SECONDS, self._close_silent, longest_answer)

    def _take_idle(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if self._is_usable(session):
                return session
            self._places += 1
        return None

    def _is_usable(self, session: Session) -> bool:
        if not session.is_closed() and not session.must_be_replaced:
            return True
        session.terminate()
        self._open.discard(session)
        return False

    async def acquire(self, longest: float) -> Session:
        """Take a session that nobody uses, open one, or wait for one; its ``release`` is then due.

        Raises:
            TooLongError: those who wait already will need more than ``longest`` seconds.
            TimeoutError: there was none for ``longest`` seconds.
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: none can be opened.

        """
        session = self._take_idle()
        if session is not None:
            return session
        deadline = self._loop.time() + longest
        if self._places:
            self._places -= 1
        else:
            session = await self._line.wait(longest)
            if session is not None and self._is_usable(session):
                return session
        return await self._open_session(deadline)

    async def _open_session(self, deadline: float) -> Session:
        """Open a session in a place that is already counted."""
        try:
            async with asyncio.timeout_at(deadline):
                session: Session = await self._connect()
        except BaseException:
            self._keep(None)
            raise
        session.pool = self
        self._open.add(session)
        if self._closing:  # meanwhile: the first statement fails, as it does in sessions that were in use
            session.terminate()
        return session

    def release(self, session: Session) -> None:
        """Return a session that was taken."""
        if session.is_settled or session.is_closed():
            self._keep(session)
        else:
            # A task of its own: whoever returns it may have been cancelled, and may be again.
            task = self._loop.create_task(self._settle(session))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _settle(self, session: Session) -> None:
        """Wait until the server has ended a cancelled statement, or close the session."""
        try:
            with suppress(*DRIVER_ERRORS):
                async with asyncio.timeout(SETTLE_SECONDS):
                    await session.execute("")  # asyncpg sends it when the cancelled one has ended
        finally:
            if not session.is_settled:  # also in the middle of a transaction: the server rolls it back
                session.terminate()
            self._keep(session)

    def _keep(self, session: Session | None) -> None:
        """Hand a session, or the place of one, to the first who waits, or keep it."""
        if session is not None and (self._closing or session.is_closed()):
            session.terminate()
            self._open.discard(session)
            session = None
        if self._closing and not self._open:
            self._all_closed.set()
        if self._line.hand_over(session):
            return
        if session is None:
            self._places += 1
        else:
            session.unused_since = self._loop.time()
            self._idle.append(session)

    def _close_unused(self) -> None:
        self._timer = self._loop.call_later(IDLE_SECONDS / 2, self._close_unused)
        limit = self._loop.time() - IDLE_SECONDS
        for session in [session for session in self._idle if session.unused_since < limit]:
            self._idle.remove(session)
            self._open.remove(session)
            self._places += 1
            session.terminate()

    def _close_silent(self, longest_answer: float) -> None:
        self._watch = self._loop.call_later(WATCH_SECONDS, self._close_silent, longest_answer)
        limit = time.perf_counter() - longest_answer
        for session in list(self._open):
            if 0 < session.asked_at < limit and session.has_time_limit:
                session.terminate()  # its caller gets an error, and returns it

    async def close(self, grace: float) -> None:
        """Close all sessions; those that are still in use after ``grace`` seconds are terminated."""
        self._closing = True
        self._timer.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while session := self._take_idle():
                    with suppress(*DRIVER_ERRORS):
                        await session.close()
                    self._keep(session)
                if self._open:
                    await self._all_closed.wait()
        if self._watch is not None:
            self._watch.cancel()
        for session in self._open:
            session.terminate()
