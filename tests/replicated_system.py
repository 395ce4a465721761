"""An API, a relay and a worker on a primary, with a standby for the API's reads."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.builders import later
from tests.drivers import Api, Database, wait_until
from tests.processes import ServiceProcess
from tests.serving import serving
from tests.streaming_standby import StreamingStandby, primary_with_standby

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from stack.embedded_postgres import EmbeddedPostgres


class Replicated:
    """An API and a relay whose reads go to a standby."""

    def __init__(self, api: Api, primary: EmbeddedPostgres, standby: StreamingStandby) -> None:
        self.api = api
        self.primary = primary
        self.standby = standby
        self._hours = 0

    def place(self) -> httpx.Response:
        """Place an order that must be accepted."""
        self._hours += 3
        answer = self.api.place_order(at=later(hours=self._hours))
        assert answer.status_code == 201, answer.text
        return answer

    def read_after(self, write: httpx.Response, path: str) -> httpx.Response:
        """Read what must include a write."""
        return self.api.client.get(path, headers={"Read-After": write.headers["Read-After"]})

    def counted(self, metric: str) -> float:
        """Return a metric's value."""
        text = self.api.client.get("/metrics").text
        (value,) = re.findall(rf"^{re.escape(metric)} (\S+)$", text, re.MULTILINE)
        return float(value)

    def wait_until_used(self) -> None:
        """Wait until reads go to the standby."""

        def is_used() -> bool:
            before = self.counted('read_requests_total{place="standby"}')
            self.api.client.get("/orders?limit=1").raise_for_status()
            return self.counted('read_requests_total{place="standby"}') > before

        wait_until(is_used, "reads go to the standby")

    def last_position(self) -> int:
        """Return the newest position."""
        position: int = self.api.client.get("/order-changes/latest").json()["position"]
        return position

    def wait_for_position(self, position: int) -> None:
        """Wait until the relay has given a position."""
        wait_until(lambda: self.last_position() >= position, f"position {position} is given")

    def repair(self) -> None:
        """Undo whatever was done to the standby, and wait until it is used."""
        self.standby.thaw()
        self.standby.server.start()
        self.standby.resume_replay()
        self.wait_until_used()


@contextmanager
def replicated_system(folder: Path, redis: str) -> Iterator[Replicated]:
    """Start the servers and the processes, and stop them after the block.

    A paused standby is used however far it is behind: nothing but what callers send protects them.
    """
    with primary_with_standby(folder) as (primary, standby), Database(primary.url) as database:
        database.add_services()
        with (
            ServiceProcess("api.relay.main", database=primary.url, redis=redis),
            ServiceProcess("worker.main", database=primary.url, redis=redis) as worker,
            serving(
                database=primary.url,
                redis=redis,
                OMS_DATABASE_READ_URL=standby.url,
                OMS_DATABASE_READ_MAX_LAG="600",
                OMS_STREAM_SILENCE="1",
                OMS_LOG_LEVEL="WARNING",
            ) as (api, _),
        ):
            yield Replicated(api, primary, standby)
            worker.kill()
