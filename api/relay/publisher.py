"""Publishes changes to the consumers: in order, at most one window ahead of what they have applied.

A message carries no changes, only the position up to which there are some. For each consumer:
assigned ≥ published ≥ applied. The publisher publishes what is assigned, and
publishes again from the cursor if the cursor does not move. How far it has published is kept in memory only:
after a restart it begins at the cursor, and the consumer drops changes that arrive twice.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from shared.change_log import FEE_SUMMARIES, WEBHOOK_DELIVERIES, cursor_of
from shared.settings import settings
from shared.task_queue import APPLY_TO_FEE_SUMMARIES, APPLY_TO_WEBHOOK_DELIVERIES

if TYPE_CHECKING:
    from api.relay.sender import Sender

log = structlog.get_logger("relay")

CONSUMERS = {
    FEE_SUMMARIES: APPLY_TO_FEE_SUMMARIES,
    WEBHOOK_DELIVERIES: APPLY_TO_WEBHOOK_DELIVERIES,
}
"""Each consumer's cursor, and the task that moves it."""


EMPTY_QUEUE_SECONDS = 1.0
"""How long a cursor may stay unmoved while the queue is empty, before changes are published to it again."""


@dataclass
class Publication:
    """How far changes were published to one consumer, as far as this process knows."""

    consumer: str
    task: str
    published: int = -1
    """-1: not known yet, begin at the cursor."""
    applied: int = -1
    progress_at: float = field(default_factory=time.monotonic)
    """When the cursor last moved, or the consumer had nothing left to apply (monotonic seconds)."""
    repeats: int = 0
    """How often changes were published again since then."""


class Publisher:
    """Publishes changes that have positions to every consumer."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._publications = [Publication(consumer, task) for consumer, task in CONSUMERS.items()]
        self._queue_is_full = False

    async def publish_once(self) -> int:
        """Publish new changes, within the window; return how many were published.

        Raises:
            DatabaseUnavailableError: PostgreSQL is unavailable. Without Redis, the next round tries again.

        """
        published = 0
        for publication in self._publications:
            if not self._sender.failed_this_round:
                published += await self._publish_to(publication)
        return published

    async def _publish_to(self, publication: Publication) -> int:
        newest = await self._read_cursor(publication)
        published = 0
        last = min(newest, publication.applied + settings().relay_window)
        while publication.published < last:
            position = min(last, publication.published + settings().relay_batch)
            if not await self._send(publication.task, position):
                break
            published += position - publication.published
            publication.published = position
        return published

    async def _read_cursor(self, publication: Publication) -> int:
        """Record how far the consumer has applied changes; return the last position that was assigned."""
        cursor = await cursor_of(publication.consumer)
        now = time.monotonic()
        if cursor.position != publication.applied or publication.published <= cursor.position:
            publication.progress_at, publication.repeats = now, 0
        went_back = cursor.position < publication.applied
        publication.applied = cursor.position
        if publication.published < cursor.position or went_back:
            # The first round, or another relay published meanwhile. Or the database was restored, or the
            # summaries are rebuilt: then everything after the cursor has to be published again.
            publication.published = cursor.position
        elif await self._is_lost(publication, now - publication.progress_at):
            publication.repeats += 1
            log.warning(
                "publishing_again",
                consumer=publication.consumer,
                applied=cursor.position,
                published=publication.published,
            )
            publication.published = cursor.position
            publication.progress_at = now
        return cursor.last_position

    async def _is_lost(self, publication: Publication, silent_seconds: float) -> bool:
        """Return whether what was published to a consumer should be published again.

        Sooner than after OMS_REPUBLISH_AFTER if nothing waits in the queue: Redis was wiped, or a child or a
        connection of the worker was lost with a batch. Or that batch takes long: hence the growing pauses.
        """
        if silent_seconds > settings().republish_after:
            return True
        return (
            silent_seconds > EMPTY_QUEUE_SECONDS * 2**publication.repeats
            and await self._sender.queue_is_empty() is True
        )

    async def _send(self, task: str, position: int) -> bool:
        sent = await self._sender.send(task, (position,), most_waiting())
        if not sent and not self._sender.is_unavailable and not self._queue_is_full:
            log.warning("queue_full", most_waiting=most_waiting())
        self._queue_is_full = not sent and not self._sender.is_unavailable
        return sent


def most_waiting() -> int:
    """Return how many messages may wait in the queue: twice what all consumers' windows need.

    The window alone would not bound the queue: while the worker is stopped, the cursors do not move, so each
    window is published again and again, also by every relay that takes over.
    """
    return 2 * len(CONSUMERS) * max(1, settings().relay_window // settings().relay_batch)
