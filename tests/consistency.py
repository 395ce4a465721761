"""What must hold after any number of concurrent writes, and a random generator whose seed is printed."""

from __future__ import annotations

import os
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers import Database

_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"

_GAPS = """
SELECT order_id FROM order_change GROUP BY order_id
HAVING min(order_version) <> 1 OR max(order_version) <> count(*)
"""

_WRONG_CHANGES = """
SELECT o.id FROM orders AS o
LEFT JOIN order_change AS c ON c.order_id = o.id AND c.order_version = o.version
WHERE c.order_state::jsonb IS DISTINCT FROM o.rendered::jsonb
"""

_WITHOUT_PLACE = """
SELECT id FROM orders
WHERE (status = 'booked') <> (clear_until > datetime) OR reference IS DISTINCT FROM rendered ->> 'reference'
"""


def seeded_random() -> random.Random:
    """Return a random generator; its seed is printed when a test fails, and ``TEST_SEED`` sets it."""
    seed = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
    print(f"TEST_SEED={seed}")
    return random.Random(seed)


@contextmanager
def stays_consistent(database: Database) -> Iterator[None]:
    """Check what is stored after the block, and that no deadlock was resolved in it."""
    before = database.value(_DEADLOCKS)
    yield
    assert database.too_close_pairs() == []
    assert database.value(_DEADLOCKS) == before
    # Each version of each order is one change, and the last one equals the order.
    assert database.rows(_GAPS) == []
    assert database.rows(_WRONG_CHANGES) == []
    assert database.rows(_WITHOUT_PLACE) == []
