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

from api.relay.metrics import CHANGES, REPUBLICATIONS
from shared.change_log import FEE_SUMMARIES, WEBHOOK_DELIVERIES
from shared.settings import settings
from shared.task_queue import APPLY_TO_FEE_SUMMARIES, APPLY_TO_WEBHOOK_DELIVERIES

if TYPE_CHECKING:
    from api.relay.sender import Sender
    from shared.change_log import LogProgress

log = structlog.get_logger("relay")

CONSUMERS = {
    FEE_SUMMARIES: APPLY_TO_FEE_SUMMARIES,
    WEBHOOK_DELIVERIES: APPLY_TO_WEBHOOK_DELIVERIES,
}
"""Each consumer's cursor, and the task that moves it."""


EMPTY_QUEUE_SECONDS = 1.0
"""How long a cursor may stay unmoved while the queue is empty, before changes are published to it again."""

WITHOUT_WEBHOOKS_SECONDS = 0.1
"""Pause between two messages to the consumer of webhook deliveries while there is no webhook, unless a whole
batch waits: it only has to move its cursor."""


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
    published_at: float = 0.0
    """When changes were last published (monotonic seconds)."""


class Publisher:
    """Publishes changes that have positions to every consumer."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._publications = [Publication(consumer, task) for consumer, task in CONSUMERS.items()]
        self._queue_is_full = False

    async def publish_once(self, progress: LogProgress) -> int:
        """Publish new changes, within the window; return how many were published.

        Without Redis, the next round tries again.
        """
        published = 0
        for publication in self._publications:
            if not self._sender.failed_this_round:
                await self._record_progress(publication, progress.applied[publication.consumer])
                published += await self._publish_to(publication, progress)
        return published

    async def _publish_to(self, publication: Publication, progress: LogProgress) -> int:
        published = 0
        last = min(progress.last_position, publication.applied + settings().relay_window)
        if _may_wait(publication, progress, last):
            return 0
        while publication.published < last:
            position = min(last, publication.published + settings().relay_batch)
            if not await self._send(publication.task, position):
                break
            published += position - publication.published
            CHANGES.add(publication.consumer, amount=position - publication.published)
            publication.published = position
            publication.published_at = time.monotonic()
        return published

    async def _record_progress(self, publication: Publication, applied: int) -> None:
        """Record how far the consumer has applied changes, and what is lost and has to be published again."""
        now = time.monotonic()
        if applied != publication.applied or publication.published <= applied:
            publication.progress_at, publication.repeats = now, 0
        went_back = applied < publication.applied
        publication.applied = applied
        if publication.published < applied or went_back:
            # The first round, or another relay published meanwhile. Or the database was restored, or the
            # summaries are rebuilt: then everything after the cursor has to be published again.
            publication.published = applied
        elif await self._is_lost(publication, now - publication.progress_at):
            publication.repeats += 1
            REPUBLICATIONS.add(publication.consumer)
            log.warning(
                "publishing_again",
                consumer=publication.consumer,
                applied=applied,
                published=publication.published,
            )
            publication.published = applied
            publication.progress_at = now

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


def _may_wait(publication: Publication, progress: LogProgress, last: int) -> bool:
    """Return whether what is to be published may wait for more."""
    return (
        publication.consumer == WEBHOOK_DELIVERIES
        and not progress.has_webhooks
        and last - publication.published < settings().relay_batch
        and time.monotonic() - publication.published_at < WITHOUT_WEBHOOKS_SECONDS
    )


def most_waiting() -> int:
    """Return how many messages may wait in the queue: twice what all consumers' windows need.

    The window alone would not bound the queue: while the worker is stopped, the cursors do not move, so each
    window is published again and again, also by every relay that takes over.
    """
    return 2 * len(CONSUMERS) * max(1, settings().relay_window // settings().relay_batch)
