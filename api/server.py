"""The API's process: ``python -m api.server``, granian on OMS_HOST and OMS_PORT."""

from __future__ import annotations

import asyncio
import contextlib

from granian import Granian
from granian.constants import Interfaces

from shared.database.engine import DatabaseUnavailableError
from shared.fee_summaries import check_time_zone
from shared.settings import settings


def main() -> None:
    """Serve until told to stop.

    Raises:
        OtherTimeZoneError: the fee summaries count in days of another zone than OMS_TIME_ZONE.

    """
    found = settings()
    # While PostgreSQL is away nothing can be said; figures are then given in the zone that is stored.
    with contextlib.suppress(DatabaseUnavailableError):
        asyncio.run(check_time_zone())
    Granian(
        "api.app:create_app",
        factory=True,
        address=found.host,
        port=found.port,
        interface=Interfaces.ASGI,
        workers=1,
        websockets=False,
        # Connections, idle ones included, wait here beyond this; database work is bounded by the pool.
        backpressure=2_000,
        respawn_failed_workers=True,
        workers_kill_timeout=5,
        log_access=False,
    ).serve()


if __name__ == "__main__":
    main()
