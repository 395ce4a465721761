"""Sends tasks to the worker, without ever blocking the relay on Redis."""

from __future__ import annotations

import asyncio

import structlog
from kombu.exceptions import OperationalError

from shared.change_log import assign_positions
from shared.settings import settings
from shared.task_queue import CONSUMER_QUEUE, send_unless_full

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
        try:
            # In a thread, because publishing blocks: if Redis hangs, up to the socket's timeout. Meanwhile
            # positions are assigned, so that subscribers that do not need Redis are not delayed.
            sending = asyncio.ensure_future(
                asyncio.to_thread(send_unless_full, task, arguments, most_waiting, queue)
            )
            while not (await asyncio.wait({sending}, timeout=settings().relay_interval))[0]:
                await assign_positions()
            sent = sending.result()
        except (OperationalError, OSError) as error:
            if not self.is_unavailable:
                log.warning("queue_unavailable", reason=str(error))
            self.is_unavailable = self.failed_this_round = True
            return False
        if self.is_unavailable:
            log.info("queue_available_again")
        self.is_unavailable = False
        return sent
