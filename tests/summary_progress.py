"""How far the log and the fee summaries of a deployment are."""

from __future__ import annotations

from tests.faults import Deployment


def last_position(deployment: Deployment) -> int:
    """The last position that was assigned; 0 before the first."""
    return _number(deployment, "SELECT coalesce(max(position), 0) FROM order_change")


def applied(deployment: Deployment) -> int:
    """The position up to which the fee summaries have the changes."""
    return _number(deployment, "SELECT position FROM consumer_cursor WHERE consumer = 'fee_summaries'")


def _number(deployment: Deployment, sql: str) -> int:
    """Read a number from the database."""
    with deployment.psql() as database:
        return int(database.value(sql))
