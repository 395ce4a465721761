"""The figures of the database that metrics show, read within a time limit.

No statement reads more than a bounded number of rows, whatever the size of the tables: the ORDER BY of each
inner query is that of an index, so PostgreSQL reads the index up to the limit and nothing else.
"""

from __future__ import annotations

import msgspec

from shared.database.statements import execute, fetch_all, fetch_optional
from shared.database.transaction import transaction

MOST_COUNTED = 10_000
"""Counts of waiting rows end here."""

MOST_ATTEMPTS = 1_000

# With outdated statistics, PostgreSQL once read and sorted all changes to find those without a position.
_SETTINGS = """
SELECT
    set_config('statement_timeout', '2s', true),
    set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true)
"""

_LOG_AND_PROOF = f"""
WITH waiting AS (
    SELECT recorded_at FROM order_change WHERE position IS NULL ORDER BY id LIMIT {MOST_COUNTED}
)
SELECT
    log.last_position::float8 AS last_position, extract(epoch FROM log.led_at)::float8 AS led_at,
    (SELECT count(*) FROM waiting)::float8 AS unassigned,
    (
        SELECT greatest(0, coalesce(extract(epoch FROM clock_timestamp() - min(recorded_at)), 0)) FROM waiting
    )::float8 AS unassigned_age,
    extract(epoch FROM now() - proof.finished_at)::float8 AS proof_age,
    proof.differing::float8 AS differing, proof.orders::float8 AS proved,
    proof.seconds::float8 AS proof_seconds
FROM change_log AS log LEFT JOIN fee_summary_proof AS proof ON proof.id = 1
WHERE log.id = 1
"""

_CONSUMERS = """
SELECT
    cursor.consumer, cursor.position::float8 AS position,
    (log.last_position - cursor.position)::float8 AS behind_changes,
    greatest(0, coalesce(extract(epoch FROM clock_timestamp() - (
        SELECT recorded_at FROM order_change WHERE position > cursor.position ORDER BY position LIMIT 1
    )), 0))::float8 AS behind_seconds
FROM consumer_cursor AS cursor JOIN change_log AS log ON log.id = 1
"""

_WEBHOOKS = f"""
WITH waiting AS (
    SELECT FROM webhook_delivery WHERE next_attempt_at IS NOT NULL
    ORDER BY webhook_id, next_attempt_at LIMIT {MOST_COUNTED}
), due AS (
    SELECT min(first.next_attempt_at) AS since
    FROM webhook AS w CROSS JOIN LATERAL (
        SELECT next_attempt_at FROM webhook_delivery AS d
        WHERE d.webhook_id = w.id AND next_attempt_at IS NOT NULL ORDER BY next_attempt_at LIMIT 1
    ) AS first
    WHERE w.deleted_at IS NULL
), attempt AS (
    SELECT started_at, latency_ms, error FROM webhook_attempt ORDER BY id DESC LIMIT {MOST_ATTEMPTS}
), recent AS (
    SELECT error FROM attempt WHERE latency_ms IS NOT NULL AND started_at > now() - interval '5 minutes'
)
SELECT
    (SELECT count(*) FROM waiting)::float8 AS waiting,
    (SELECT greatest(0, coalesce(extract(epoch FROM now() - since), 0)) FROM due)::float8 AS due_age,
    (SELECT count(*) FROM recent WHERE error IS NULL)::float8 AS delivered,
    (SELECT count(*) FROM recent WHERE error IS NOT NULL)::float8 AS failed,
    count(*) FILTER (WHERE disabled_at IS NULL AND failing_since IS NULL)::float8 AS working,
    count(*) FILTER (WHERE disabled_at IS NULL AND failing_since IS NOT NULL)::float8 AS failing,
    count(*) FILTER (WHERE disabled_at IS NOT NULL)::float8 AS disabled
FROM webhook WHERE deleted_at IS NULL
"""


class LogAndProof(msgspec.Struct, frozen=True):
    """The change log, the relay and the last proof; times in seconds."""

    last_position: float
    led_at: float | None
    """When a relay last worked (Unix time); None: none has yet."""
    unassigned: float
    unassigned_age: float
    proof_age: float | None
    """None, like the following: there was no proof yet."""
    differing: float | None
    proved: float | None
    proof_seconds: float | None


class Consumer(msgspec.Struct, frozen=True):
    """A consumer of changes and its cursor."""

    consumer: str
    position: float
    behind_changes: float
    behind_seconds: float
    """The age of the oldest change that it has not applied; 0: there is none."""


class Webhooks(msgspec.Struct, frozen=True):
    """Deliveries, attempts of the last five minutes, and webhooks by state."""

    waiting: float
    due_age: float
    delivered: float
    failed: float
    working: float
    failing: float
    disabled: float


class Figures(msgspec.Struct, frozen=True):
    """All figures of the database."""

    log: LogAndProof | None
    consumers: list[Consumer]
    webhooks: Webhooks | None


async def read_figures() -> Figures:
    """Read all figures, in one transaction that writes nothing.

    Raises:
        DatabaseUnavailableError: they can't be read.

    """
    async with transaction(readonly=True):
        await execute(_SETTINGS)
        return Figures(
            await fetch_optional(LogAndProof, _LOG_AND_PROOF),
            await fetch_all(Consumer, _CONSUMERS),
            await fetch_optional(Webhooks, _WEBHOOKS),
        )
