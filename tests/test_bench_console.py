"""What `make bench-console` measures with; it is run by hand."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from bench.console_report import table
from bench.event_followers import check_complete, following, wait_until
from bench.processes import BenchError

if TYPE_CHECKING:
    from tests.drivers import Api, Pipeline


def test_followers_receive_each_change_once_and_say_when(pipeline: Pipeline) -> None:
    """Also those from before they connected."""
    pipeline.api.placed_order()
    before = pipeline.wait_until_summed() - 1
    began = time.time()

    async def follow() -> None:
        async with following(_port(pipeline.api), 3, before) as followers:
            await asyncio.to_thread(pipeline.api.placed_order, at="2031-05-05T09:00:00Z")
            await wait_until(
                lambda: all(each.last == before + 2 for each in followers), "both changes arrived"
            )
        for follower in followers:
            check_complete("a stream", follower.positions, before + 1, before + 2)
            assert began <= follower.arrived[0] <= follower.arrived[1] <= time.time()

    asyncio.run(follow())


def test_followers_fail_where_there_is_no_stream(pipeline: Pipeline) -> None:
    async def follow() -> None:
        async with following(_port(pipeline.api), 2, 10**9):
            raise AssertionError("a position of the future was accepted")

    with pytest.raises(BenchError, match="410 Gone"):
        asyncio.run(follow())


@pytest.mark.parametrize("positions", [[4, 6], [4, 5, 5, 6], [5, 4, 6], [4, 5], [4, 5, 6, 7]])
def test_a_missing_or_repeated_change_is_a_fault(positions: list[int]) -> None:
    check_complete("a stream", [4, 5, 6], 4, 6)
    with pytest.raises(BenchError, match="4 to 6 in order"):
        check_complete("a stream", positions, 4, 6)


def test_waiting_ends() -> None:
    with pytest.raises(BenchError, match="until all was well"):
        asyncio.run(wait_until(lambda: False, "all was well", seconds=0.1))


def test_the_table_says_whether_the_goal_is_met() -> None:
    latency = {"events": 1_000, "p50_ms": 80.4, "p95_ms": 171.0, "p99_ms": 240.0, "max_ms": 400.0}
    text = table(
        {
            "machine": {"cores": 2, "load_before": 0.1},
            "streams": 200,
            "changes": 1_200,
            "latency": {"streams": latency, "pages": {**latency, "p95_ms": 301.0}},
            "restarts": {"killed": {"ready_seconds": 1.24, "all_back_seconds": 3.0}},
            "memory": {
                "10000": {"heap_mb": 1.85, "nodes": 381, "listeners": 34},
                "20000": {"heap_mb": 1.9, "nodes": 381, "listeners": 34},
            },
        }
    )
    assert "| 200 connections | 1,000 | 80 | 171 | 240 | 400 | met |" in text
    assert "| 301 | 240 | 400 | missed |" in text
    assert "| killed (SIGKILL) | 1.2 | 3.0 |" in text
    assert "| 20,000 | 1.90 | 381 | 34 |" in text
    assert "added 51 KB" in text


def _port(api: Api) -> int:
    return int(api.url.rpartition(":")[2])
