"""Whatever is killed, wiped or cut off: nothing acknowledged is lost, and the summaries become exact."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests import faults
from tests.builders import later
from tests.callers import EXPECTED
from tests.drivers import WAITING_FOR_LOCKS, wait_until
from tests.faults import Deployment, with_load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.callers import Caller

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def deployment(own_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Servers and processes that may be broken, with a database that nothing else uses."""
    with Deployment(tmp_path_factory.mktemp("faults"), own_database_url) as deployment:
        yield deployment


def assert_nothing_is_lost(
    deployment: Deployment, crowd: list[Caller], *, also: frozenset[int | str] = frozenset()
) -> Counter[int | str]:
    """Check all that must hold after a fault, and return how often callers got which status."""
    print(f"exact after {deployment.wait_until_exact(30):.1f} s")
    assert deployment.faults() == []
    for caller in crowd:
        assert caller.losses(deployment.api) == []
        assert caller.refusals(EXPECTED | also) == []
    return sum((caller.answers for caller in crowd), Counter[int | str]())


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda d: d.restart(d.worker), id="the worker is killed"),
        pytest.param(lambda d: d.kill_worker_child(random.Random(1)), id="a child of the worker is killed"),
        pytest.param(lambda d: d.restart(d.relay, outage=0.2), id="a relay is killed"),
        pytest.param(lambda d: [d.restart(d.relay), d.restart(d.standby)], id="both relays are killed"),
        pytest.param(lambda d: [d.wipe_redis() for _ in range(20)], id="Redis is wiped"),
        pytest.param(lambda d: d.restart_redis(empty=False), id="Redis is killed and comes back"),
        pytest.param(
            lambda d: d.restart_redis(empty=True, outage=0.5), id="Redis is replaced by an empty one"
        ),
    ],
)
def test_callers_see_no_error_and_summaries_become_exact_after_a_fault(
    deployment: Deployment, fault: Callable[[Deployment], object]
) -> None:
    """Callers continue during the fault; afterwards everything acknowledged is stored and summed."""
    crowd = with_load(deployment, 1, lambda: fault(deployment))
    answers = assert_nothing_is_lost(deployment, crowd)
    assert answers[201] > 0


def blocked_task(deployment: Deployment, blocker: Callable[[str], object]) -> None:
    """Place an order whose summing waits for a lock that the blocker takes."""
    blocker("BEGIN")
    blocker("LOCK TABLE fee_summary IN SHARE MODE")
    deployment.api.placed_order(at=later(hours=3 * time.monotonic_ns() // 1000 % 10_000), calendar="blocked")
    with deployment.psql() as database:
        wait_until(
            lambda: bool(
                database.value(f"SELECT count(*) {WAITING_FOR_LOCKS} AND mode = 'RowExclusiveLock'")
            ),
            "the worker is in the middle of a batch",
        )


def test_a_batch_whose_worker_is_killed_is_counted_once(deployment: Deployment) -> None:
    """SIGKILL while the transaction is open."""
    deployment.wait_until_exact()
    with deployment.psql() as blocker:
        blocked_task(deployment, blocker.rows)
        deployment.worker.kill()
        blocker.rows("ROLLBACK")
        assert blocker.value(
            "SELECT max(position) > (SELECT min(position) FROM consumer_cursor) FROM order_change"
        )
    deployment.worker.start()
    assert_nothing_is_lost(deployment, [])


def test_a_worker_in_the_middle_of_a_batch_stops_within_ten_seconds(
    deployment: Deployment,
) -> None:
    """SIGTERM while its transaction waits for a lock."""
    deployment.wait_until_exact()
    with deployment.psql() as blocker:
        blocked_task(deployment, blocker.rows)
        before = time.monotonic()
        try:
            deployment.worker.stop()
        finally:
            print(f"stopped after {time.monotonic() - before:.1f} s")
            blocker.rows("ROLLBACK")
            deployment.worker.start()
    assert_nothing_is_lost(deployment, [])


def test_a_busy_worker_receives_tasks_again_after_redis_comes_back(deployment: Deployment) -> None:
    """Kombu would wait forever for room in a prefetch window that is no longer emptied."""
    # Both children hold a message that they can't acknowledge: the prefetch window is full.
    deployment.wait_until_exact()
    with deployment.psql() as blocker:
        blocked_task(deployment, blocker.rows)
        for day in range(4):
            deployment.api.placed_order(at=later(days=day), calendar=f"blocked-{time.monotonic_ns()}")
        time.sleep(0.3)
        deployment.valkey.kill()
        blocker.rows("ROLLBACK")
    time.sleep(0.7)
    deployment.valkey.start()
    assert_nothing_is_lost(deployment, [])


def test_orders_are_accepted_while_redis_is_unreachable(deployment: Deployment) -> None:
    """The API reports that it is ready."""
    deployment.valkey.kill()
    try:
        crowd = with_load(deployment, 2, lambda: time.sleep(0.5))
        ready = deployment.api.client.get("/health/ready")
        assert (ready.status_code, ready.json()["checks"]["queue"]) == (200, "unavailable")
        for caller in crowd:
            assert caller.answers[201] > 3
            assert caller.refusals(EXPECTED) == []
    finally:
        deployment.valkey.start()
    assert_nothing_is_lost(deployment, crowd)


def test_a_worker_that_starts_while_redis_is_unreachable_waits_for_redis(deployment: Deployment) -> None:
    """It connects as soon as Redis answers."""
    deployment.worker.kill()
    deployment.valkey.kill()
    try:
        before = deployment.worker.log.count("queue_unavailable")
        deployment.worker.start()
        deployment.api.placed_order(calendar=f"outage-{time.monotonic_ns()}")
        wait_until(lambda: deployment.worker.log.count("queue_unavailable") > before, "the worker waits")
    finally:
        deployment.valkey.start()
    assert_nothing_is_lost(deployment, [])


def test_terminated_postgresql_sessions_cause_503_at_worst_and_the_service_recovers(
    deployment: Deployment,
) -> None:
    """As in a failover: no other 5xx, and no connection of the pool is lost."""

    def end_sessions() -> None:
        for _ in range(6):
            assert deployment.terminate_backends() > 0
            time.sleep(0.15)

    crowd = with_load(deployment, 3, end_sessions, callers=5)
    answers = assert_nothing_is_lost(deployment, crowd, also=frozenset({503}))
    print(dict(answers))
    assert answers[503] > 0
    for _ in range(8):
        assert deployment.api.client.get("/orders").status_code == 200


@contextmanager
def holding(deployment: Deployment, order_id: str) -> Iterator[None]:
    """Hold the locks of an import on the calendar, and one on an order, until the block ends."""
    with deployment.psql() as blocker:
        blocker.rows("BEGIN")
        try:
            blocker.rows("SELECT FROM orders WHERE id = $1 FOR UPDATE", int(order_id))
            blocker.rows(
                """
                INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
                SELECT clear_until, 1, '{123}', '{Inspection}', calendar_id
                FROM orders WHERE id = $1
                """,
                int(order_id),
            )
            yield
        finally:
            blocker.rows("ROLLBACK")


def test_requests_that_wait_for_a_lock_do_not_block_other_requests(deployment: Deployment) -> None:
    """Twenty writers, many more than connections, wait for one import; others are served meanwhile."""
    calendar = f"held-{time.monotonic_ns()}"
    order = deployment.api.placed_order(calendar=calendar)
    patch = partial(deployment.api.client.patch, f"/orders/{order['id']}", json={"totalfee": 1})
    place_next = partial(deployment.api.place_order, at=later(hours=3), calendar=calendar)
    with ThreadPoolExecutor(20) as threads:
        with holding(deployment, order["id"]):
            # Four at a time try for OMS_LOCK_WAIT (0.1 s), so the last waits 0.5 s for its first try. After
            # OMS_POOL_WAIT (2 s) it would be answered 503, which happened to forty on a busy machine.
            waiting = [threads.submit(call) for call in (patch, place_next) * 10]
            # A quarter of their time limit, so that they succeed on a busy machine too.
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                before = time.monotonic()
                assert deployment.api.placed_order(calendar=f"elsewhere-{time.monotonic_ns()}")
                assert deployment.api.client.get(f"/orders/{order['id']}").json()["totalfee"] == 100
                assert deployment.api.client.get("/health/ready").status_code == 200
                assert time.monotonic() - before < 3
            assert [call.result().text for call in waiting if call.done()] == []
        answers = Counter(call.result().status_code for call in waiting)
    # The transaction with the locks was rolled back, so each request succeeds as if it had not existed.
    assert answers == {200: 10, 201: 1, 409: 9}


def test_a_request_that_waits_too_long_for_a_lock_is_answered_in_time(deployment: Deployment) -> None:
    """Not before a statement's time limit, here 4 s, and not much later."""
    order = deployment.api.placed_order(calendar=f"held-{time.monotonic_ns()}")
    with holding(deployment, order["id"]):
        before = time.monotonic()
        answer = deployment.api.client.patch(f"/orders/{order['id']}", json={"totalfee": 1})
        took = time.monotonic() - before
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert "import" in answer.json()["detail"]
    assert 2.5 < took < 7
    assert deployment.api.client.patch(f"/orders/{order['id']}", json={"totalfee": 2}).status_code == 200


def test_random_faults_under_random_load_lose_nothing(deployment: Deployment) -> None:
    """The same as ``make faults``, for some seconds and under less load."""
    seed = 20_260
    print(f"seed {seed}; for longer: python -m tests.faults --minutes 10 --seed {seed}")
    try:
        assert faults.run(deployment, seconds=5, seed=seed, pause=0.03) == []
    except asyncpg.PostgresError as error:  # says which fault it was in
        pytest.fail(f"{error!r}")
