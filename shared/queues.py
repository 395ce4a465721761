"""The queues' names: keys, in Redis. ``shared/task_queue.py`` has the tasks; relay and worker import it."""

from __future__ import annotations

CONSUMER_QUEUE = "order-change-batches"
"""Not ``order-changes``: that is the stream that subscribers read."""

ATTEMPTS_QUEUE = "webhook-attempts"
"""A queue of its own: at most one request to attempt deliveries waits in it, however many batches wait."""

QUEUES = (CONSUMER_QUEUE, ATTEMPTS_QUEUE)
