"""Sends tasks to the worker, without ever blocking the relay on Redis."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ParamSpec

import structlog
from kombu.exceptions import OperationalError

from api.relay.metrics import FAILURES, MESSAGES, assign_and_count
from shared.settings import settings
from shared.task_queue import CONSUMER_QUEUE, is_empty, send_unless_full

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")

log = structlog.get_logger("relay")


class Sender:
    """Sends tasks through the queue, and logs when Redis becomes unavailable and when it is back."""

    def __init__(self) -> None:
        self.is_unavailable = False
        """Whether the last task could not be sent because Redis was unavailable."""
        self.failed_this_round = False
        """Whether Redis failed since ``begin_round``, so that a round waits for one timeout at most."""

    def begin_round(self) -> None:
        """Try again to reach Redis."""
        self.failed_this_round = False

    async def send(
        self, task: str, arguments: tuple[object, ...], most_waiting: int, queue: str = CONSUMER_QUEUE
    ) -> bool:
        """Send a task unless that many messages wait in the queue already; return whether it was sent."""
        sent = await self._run(send_unless_full, task, arguments, most_waiting, queue)
        if sent:
            MESSAGES.add(task)
        elif sent is False:
            FAILURES.add("queue", "full")
        return sent or False

    async def queue_is_empty(self) -> bool | None:
        """Return whether no batch of changes waits for the worker; None if Redis is unavailable."""
        return await self._run(is_empty)

    async def _run(self, call: Callable[P, bool], *arguments: P.args, **named: P.kwargs) -> bool | None:
        """Make a call that Redis must answer; None, after logging it once, if Redis is unavailable."""
        # In a thread, because it blocks: if Redis hangs, up to the socket's timeout. Meanwhile positions are
        # assigned, so that subscribers that do not need Redis are not delayed.
        calling = asyncio.ensure_future(asyncio.to_thread(call, *arguments, **named))
        while not (await asyncio.wait({calling}, timeout=settings().relay_interval))[0]:
            await assign_and_count()
        try:
            result = calling.result()
        except Exception as error:
            if not self.is_unavailable:
                # What is no Redis may answer so that its client raises anything: then the log shows where.
                is_expected = isinstance(error, (OperationalError, OSError))
                log.warning("queue_unavailable", reason=str(error), exc_info=not is_expected)
            self.is_unavailable = self.failed_this_round = True
            FAILURES.add("queue", "unavailable")
            return None
        if self.is_unavailable:
            log.info("queue_available_again")
        self.is_unavailable = False
        return result
