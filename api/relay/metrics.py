"""What the relay counts, for Prometheus (``docs/metrics.md``)."""

from __future__ import annotations

from shared.change_log import FEE_SUMMARIES, WEBHOOK_DELIVERIES, assign_positions
from shared.metrics.declared import Count, Durations, State
from shared.task_queue import TASKS

_CONSUMERS = ((FEE_SUMMARIES,), (WEBHOOK_DELIVERIES,))

LEADING = State("relay_leading", "1 while this relay works, 0 while it waits for another one to end.")

POSITIONED = Count("relay_changes_positioned_total", "Changes that this relay has given a position.")

ROUNDS = Durations(
    "relay_round_duration_seconds", "Time of a round: to give positions, and to publish what has one."
)

MESSAGES = Count(
    "relay_messages_published_total",
    "Messages sent to the worker, by task.",
    ("task",),
    tuple((task,) for task in TASKS),
)

CHANGES = Count(
    "relay_changes_published_total",
    "Changes announced to a consumer; those that were published again count again.",
    ("consumer",),
    _CONSUMERS,
)

REPUBLICATIONS = Count(
    "relay_republications_total",
    "How often changes were published again from a consumer's cursor, since it had not moved.",
    ("consumer",),
    _CONSUMERS,
)

FAILURES = Count(
    "relay_publish_failures_total",
    "Messages (queue) and transactions (stream) that Redis did not take, or refused as the queue was full.",
    ("target", "reason"),
    (("queue", "unavailable"), ("queue", "full"), ("stream", "unavailable")),
)

STREAM_ENTRIES = Count("relay_stream_entries_total", "Changes added to the Redis stream.")

DATABASE_FAILURES = Count(
    "relay_database_failures_total", "How often the relay had to start over, as PostgreSQL failed."
)


async def assign_and_count() -> int:
    """Assign positions, as ``assign_positions`` does, and count them."""
    assigned = await assign_positions()
    if assigned:
        POSITIONED.add(amount=assigned)
    return assigned
