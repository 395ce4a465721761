"""Failovers of Redis by Debian's sentinels, under load: everything follows, and nothing is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from tests.callers import EXPECTED
from tests.drivers import wait_until
from tests.faults import Deployment, with_load
from tests.sentinel_quorum import SentinelQuorum, require_redis_sentinel
from tests.stream_follower import STREAM, StreamFollower
from tests.summary_progress import applied, last_position

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def quorum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelQuorum]:
    """Three servers and three sentinels."""
    require_redis_sentinel()
    with SentinelQuorum(tmp_path_factory.mktemp("sentinels")) as quorum:
        yield quorum


@pytest.fixture(scope="module")
def deployment(
    own_database_url: str, tmp_path_factory: pytest.TempPathFactory, quorum: SentinelQuorum
) -> Iterator[Deployment]:
    """The service's processes, with all sentinels in their URL."""
    with Deployment(
        tmp_path_factory.mktemp("deployment"), own_database_url, OMS_REDIS_URL=quorum.url
    ) as deployment:
        yield deployment


@pytest.mark.parametrize("fault", ["the master is killed", "the master hangs", "a planned failover"])
def test_everything_follows_a_failover_and_each_change_counts_once(
    deployment: Deployment, quorum: SentinelQuorum, fault: str
) -> None:
    """Callers see no error, summaries become exact, and the stream continues without a gap on the new master.

    A master that hangs does so until all of that is seen: its old connections never end by themselves.
    """
    with StreamFollower(quorum.master) as follower:
        wait_until(lambda: is_read(deployment, follower), "the stream is read from its beginning", 30)
        before = quorum.master_port
        with quorum.hung_master() if fault == "the master hangs" else nullcontext():
            began = time.monotonic()

            def fail_over() -> None:
                if fault == "the master is killed":
                    quorum.kill_master()
                elif fault == "a planned failover":
                    quorum.switch_over()
                elected = quorum.wait_for_another_master(before)
                begun = last_position(deployment)
                wait_until(lambda: applied(deployment) > begun, "summaries follow", 60)
                summed = time.monotonic() - began
                wait_until(lambda: quorum.client(quorum.master_port).exists(STREAM) == 1, "stream", 60)
                print(f"{fault}: another master after {elected:.1f} s, summaries after {summed:.1f} s")

            crowd = with_load(deployment, 7, fail_over)
            print(f"exact after {deployment.wait_until_exact(60):.1f} s more")
            assert deployment.faults() == []
            wait_until(lambda: is_read(deployment, follower), "the stream has every change", 30)
            print(f"longest silence of the stream: {follower.longest_silence:.1f} s")
        quorum.repair()
        deployment.wait_until_exact(60)
    assert deployment.faults() == []
    for caller in crowd:
        assert caller.losses(deployment.api) == []
        assert caller.refusals(EXPECTED) == []
    assert follower.faults == []
    assert [json.loads(text) for text in follower.notifications] == feed(deployment)
    # The old master may have taken the last entries when the new one was a master already.
    wait_until(lambda: has_every_change(deployment, quorum), "the master's stream has each change once", 10)


def feed(deployment: Deployment) -> list[Any]:
    """Read every change from the feed, in order."""
    changes: list[Any] = []
    while page := deployment.api.client.get(f"/order-changes?after={len(changes)}&limit=100").json()["items"]:
        changes += page
    return changes


def is_read(deployment: Deployment, follower: StreamFollower) -> bool:
    """Whether the follower has read the last change."""
    return follower.last == last_position(deployment)


def has_every_change(deployment: Deployment, quorum: SentinelQuorum) -> bool:
    """Whether the master's stream has each change once."""
    last = last_position(deployment)
    entries: Any = quorum.client(quorum.master_port).xrange(STREAM)
    return [entry for entry, _ in entries] == [f"{position}-0" for position in range(1, last + 1)]
