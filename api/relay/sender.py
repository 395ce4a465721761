"""Sending tasks to the worker, without ever stopping for Redis."""

from __future__ import annotations

import asyncio

import structlog
from kombu.exceptions import OperationalError

from shared.change_log import assign_positions
from shared.settings import settings
from shared.task_queue import CONSUMER_QUEUE, send_unless_full

log = structlog.get_logger("relay")


class Sender:
    """Sends tasks through the queue, and logs once when Redis goes away and once when it is back."""

    def __init__(self) -> None:
        self.is_away = False
        """Whether the last task could not be sent because Redis is away."""
        self.failed_this_round = False
        """Whether Redis failed since ``begin_round``: if it hangs, a round waits for one timeout only."""

    def begin_round(self) -> None:
        """Try again to reach Redis."""
        self.failed_this_round = False

    async def send(
        self, task: str, arguments: tuple[object, ...], most_waiting: int, queue: str = CONSUMER_QUEUE
    ) -> bool:
        """Send a task unless that many messages wait in the queue already; return whether it was sent."""
        try:
            # In a thread: publishing blocks, up to the socket's timeout when Redis hangs. Subscribers that do
            # not need Redis must not notice, so positions are assigned meanwhile.
            sending = asyncio.ensure_future(
                asyncio.to_thread(send_unless_full, task, arguments, most_waiting, queue)
            )
            while not (await asyncio.wait({sending}, timeout=settings().relay_interval))[0]:
                await assign_positions()
            sent = sending.result()
        except (OperationalError, OSError) as error:
            if not self.is_away:
                log.warning("queue_unavailable", reason=str(error))
            self.is_away = self.failed_this_round = True
            return False
        if self.is_away:
            log.info("queue_available_again")
        self.is_away = False
        return sent
