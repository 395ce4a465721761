"""Up to when a list that is sorted by ``updated_at`` is complete.

An order's ``updated_at`` is taken from the clock while its transaction still runs (trigger ``render_order``),
and others see the order only once that has committed: minutes later, if it is one of a large import. Whoever
had read beyond that time by then would never see it. So a list sorted by ``updated_at`` ends at a horizon,
which is the earlier of two times:

- now, as of when the statement below began;
- the start of the oldest transaction that holds the lock on ``orders`` that every INSERT and UPDATE takes.

Orders at or after the horizon are left out for now. The list's statement begins after this one has ended, and
sees every version of an order with an ``updated_at`` before the horizon: suppose it does not see one. Its
transaction had then not committed when this statement looked for locks. If it held the lock already, the
horizon is not after the start of that transaction, which is not after the order's ``updated_at``. If it took
the lock later, its trigger read the clock later still, so after the time at which this statement began.
Either way, the order's ``updated_at`` is not before the horizon. PostgreSQL releases a transaction's locks
after it has made it visible, so there is no moment between the two.

It does not hold for orders that are stored with an ``updated_at`` of their own (imports, and rows written
without the trigger), nor across a clock that is set back: nothing that compares times could. The change feed
has positions instead, and needs no clock.
"""

from __future__ import annotations

from datetime import datetime

from shared.database.statements import fetch_value

# statement_timestamp(), not clock_timestamp(): it is before whatever this statement does, in whichever order
# PostgreSQL evaluates it.
#
# Sessions may end or begin between the two views. One that had the lock and is idle now has committed; one
# whose transaction began after its session was looked at wrote after this statement began. Both are without a
# start, and in nobody's way. A transaction whose start can't be seen is in the way of everything: one that is
# prepared, one of a session with track_activities off, and one of a role whose sessions this role may not
# see.
HORIZON = """
SELECT least(statement_timestamp(), min(
    CASE
        WHEN l.pid IS NULL OR a.state = 'disabled'
            OR NOT (pg_has_role(a.usesysid, 'USAGE') OR pg_has_role('pg_read_all_stats', 'USAGE'))
        THEN '1970-01-01T00:00:00Z'
        ELSE a.xact_start
    END
)) AS at
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.relation = 'orders'::regclass
  AND l.mode = 'RowExclusiveLock' AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def find_horizon() -> datetime:
    """Return the time before which statements that begin from now on see every change of an order."""
    return await fetch_value(datetime, HORIZON)
