"""A URL that names several hosts: whichever of them is the primary is used, also after a failover."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from stack.embedded_postgres import EmbeddedPostgres
from tests.builders import later
from tests.command_steps import oms
from tests.drivers import Database, wait_until
from tests.processes import NO_REDIS, ServiceProcess, run_command
from tests.serving import serving
from tests.streaming_standby import StreamingStandby, primary_with_standby

if TYPE_CHECKING:
    from collections.abc import Iterator

FAILOVER_SECONDS = 10.0

pytestmark = pytest.mark.timeout(120)  # two database servers


@pytest.fixture
def servers() -> Iterator[tuple[EmbeddedPostgres, StreamingStandby]]:
    """A primary and a standby that follows it."""
    with tempfile.TemporaryDirectory(prefix="oms-") as folder, primary_with_standby(Path(folder)) as both:
        yield both


def url_of(*urls: str) -> str:
    """Return one URL that names the hosts of several, in this order."""
    hosts = ",".join(parse_qs(urlsplit(url).query)["host"][0] for url in urls)
    return f"postgresql://postgres@/orders?host={hosts}&port=5432"


def is_stored(url: str) -> bool:
    """Ask ``oms doctor`` whether orders can be stored over a URL."""
    done = oms("doctor", "--json", OMS_DATABASE_URL=url, OMS_REDIS_URL=NO_REDIS)
    (text,) = (
        finding["text"]
        for finding in json.loads(done.stdout)["findings"]
        if finding["area"] == "database" and finding["text"].startswith("orders can")
    )
    return bool(text.startswith("orders can be stored"))


def test_the_primary_is_used_wherever_the_url_names_it(
    servers: tuple[EmbeddedPostgres, StreamingStandby],
) -> None:
    """By processes, migrations and commands, unless the URL asks for another kind of server."""
    primary, standby = servers
    for url in (url_of(primary.url, standby.url), url_of(standby.url, primary.url)):
        assert run_command("shared.database.migrate", database=url).returncode == 0
        assert is_stored(url)
        assert is_stored(f"{url}&target_session_attrs=read-write")
        assert not is_stored(f"{url}&target_session_attrs=standby")


def test_after_a_failover_the_new_primary_is_used(
    servers: tuple[EmbeddedPostgres, StreamingStandby],
) -> None:
    """Without a restart or a change of the URL: orders are stored, and get positions."""
    primary, standby = servers
    url = url_of(primary.url, standby.url)
    with Database(primary.url) as database:
        database.add_services()
    with (
        ServiceProcess("api.relay.main", database=url, redis=NO_REDIS),
        serving(database=url, redis=NO_REDIS, OMS_POOL_WAIT="1") as (api, _),
        Database(standby.url) as promoted,
    ):
        before = api.placed_order(at=later(hours=3))
        wait_until(
            lambda: promoted.value("SELECT count(*) FROM order_change WHERE position IS NOT NULL") == 1,
            "the standby has the order and its position",
        )
        primary.kill()
        assert api.place_order(at=later(hours=6)).status_code == 503
        assert promoted.value("SELECT pg_promote()")
        began = time.monotonic()
        wait_until(lambda: api.place_order(at=later(hours=9)).status_code == 201, "orders are stored")
        changes = "/order-changes?after=1"
        wait_until(lambda: bool(api.client.get(changes).json()["items"]), "a change has the next position")
        assert time.monotonic() - began < FAILOVER_SECONDS
        assert api.client.get(f"/orders/{before['id']}").json() == before
