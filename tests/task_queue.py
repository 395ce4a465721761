"""The messages that wait for the worker in Redis, read without Celery."""

from __future__ import annotations

import base64
import json

import redis

from shared.changes import Batch
from shared.task_queue import APPLY_TO_FEE_SUMMARIES, CONSUMER_QUEUE


class Queue:
    """The messages that wait for the worker in Redis."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url, socket_timeout=5)

    def __len__(self) -> int:
        """Count the messages."""
        return int(self.client.llen(CONSUMER_QUEUE))

    def batches(self) -> list[Batch]:
        """Read the messages, oldest first, and leave them."""
        batches = []
        for text in reversed(self.client.lrange(CONSUMER_QUEUE, 0, -1)):
            message = json.loads(text)
            if message["headers"]["task"] != APPLY_TO_FEE_SUMMARIES:
                continue  # for another consumer, from a relay in another process
            arguments, _, _ = json.loads(base64.b64decode(message["body"]))
            batches.append(Batch(*arguments))
        return batches

    def taken(self) -> list[Batch]:
        """Read the messages, oldest first, and remove them."""
        batches = self.batches()
        self.client.delete(CONSUMER_QUEUE)
        return batches
