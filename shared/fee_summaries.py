"""What the API and the worker share about fee summaries: the oldest readable position, and the time zone.

Summaries that count days of one zone can't take changes that count days of another. So the zone is stored
with them, and the API and the worker count in the stored zone. ``OMS_TIME_ZONE`` becomes the stored zone
while there are no summaries, or by a rebuild. A process whose ``OMS_TIME_ZONE`` is another zone refuses to
start.
"""

from __future__ import annotations

from shared.command_output import StartRefusedError
from shared.database.statements import fetch_values
from shared.settings import settings

FURTHEST_BACK = 50_000
"""The number of changes behind the present position for which figures can still be read."""

_OTHER_ZONE = """
SELECT time_zone FROM fee_summary_state AS s WHERE time_zone <> $1
AND EXISTS (SELECT FROM fee_summary AS f WHERE f.generation = s.generation)
"""


class OtherTimeZoneError(StartRefusedError):
    """OMS_TIME_ZONE is not the zone of the fee summaries."""


async def check_time_zone() -> None:
    """Check that OMS_TIME_ZONE is the zone of the fee summaries, unless there are none yet.

    Raises:
        OtherTimeZoneError: the summaries use another zone.
        DatabaseUnavailableError: the zone can't be read, or there are no tables yet.

    """
    requested = settings().time_zone
    other_zones = await fetch_values(str, _OTHER_ZONE, requested)
    if other_zones:
        raise OtherTimeZoneError(
            f"OMS_TIME_ZONE is {requested}, and the fee summaries count in days of {other_zones[0]}: set it "
            f"back, or, with everything running as before, rebuild them with `OMS_TIME_ZONE={requested} make "
            "rebuild` (oms rebuild) and start again"
        )
