"""The messages that wait for the worker in Redis, read without Celery."""

from __future__ import annotations

import base64
import json

import redis

from shared.task_queue import APPLY_TO_FEE_SUMMARIES, CONSUMER_QUEUE


class Queue:
    """The messages that wait for the worker in Redis."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url, socket_timeout=5)

    def __len__(self) -> int:
        """Count the messages."""
        return int(self.client.llen(CONSUMER_QUEUE))

    def positions(self) -> list[int]:
        """Read up to which position each message announces changes, oldest first, and leave the messages."""
        positions = []
        for text in reversed(self.client.lrange(CONSUMER_QUEUE, 0, -1)):
            message = json.loads(text)
            if message["headers"]["task"] != APPLY_TO_FEE_SUMMARIES:
                continue  # for another consumer, from a relay in another process
            (position,), _, _ = json.loads(base64.b64decode(message["body"]))
            positions.append(position)
        return positions

    def taken(self) -> list[int]:
        """Read the messages like ``positions``, and remove them."""
        positions = self.positions()
        self.client.delete(CONSUMER_QUEUE)
        return positions
