"""What the API and the worker must agree on about fee summaries: how far back, and in which days.

Rows made in the days of one zone can't take changes in those of another. So the zone is stored beside them;
it is what the worker and the API count in. ``OMS_TIME_ZONE`` is taken over while there is nothing to
contradict it, or by a rebuild, and a process that is told another zone refuses to start.
"""

from __future__ import annotations

import asyncpg

from shared.database.rows import row
from shared.settings import settings

FURTHEST_BACK = 50_000
"""Changes behind the present position for which figures can still be given."""


class OtherTimeZoneError(SystemExit):
    """OMS_TIME_ZONE is not the zone of the fee summaries; the text says what to do.

    Unhandled, it ends the process with that line and exit status 1, without a stack trace.
    """


async def check_time_zone() -> None:
    """See that OMS_TIME_ZONE is the zone of the fee summaries, or that there are none yet.

    A database without tables passes: there is nothing in it to be wrong.

    Raises:
        OtherTimeZoneError: it is another.
        DatabaseUnavailableError: nothing can be said.

    """
    try:
        found = await row(
            """
            SELECT time_zone FROM fee_summary_state AS s WHERE time_zone <> $1
            AND EXISTS (SELECT FROM fee_summary AS f WHERE f.generation = s.generation)
            """,
            settings().time_zone,
        )
    except asyncpg.UndefinedTableError:
        return
    if found is not None:
        asked = settings().time_zone
        raise OtherTimeZoneError(
            f"OMS_TIME_ZONE is {asked}, and the fee summaries count in days of {found['time_zone']}: set it "
            f"back, or, with everything running as before, rebuild them with `OMS_TIME_ZONE={asked} make "
            "rebuild` (python -m worker.fee_summaries.rebuild) and start again"
        )
