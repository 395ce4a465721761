"""Exporting traces: nothing is lost when processes end, nothing waits for a collector, or none is made."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

import pytest

from shared.tracing.variables import UnusableVariableError, wants_traces
from tests.builders import later, order_body
from tests.drivers import wait_until
from tests.processes import ROOT, environment
from tests.trace_collector import Collector
from tests.traced_system import PIPELINE, TRACEPARENT, running
from tests.webhook_steps import subscribe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Database
    from tests.webhook_receiver import Receiver

TWO_TASKS_PER_CHILD = """
from shared.task_queue import app
app.conf.worker_max_tasks_per_child = 2
from worker.main import main
raise SystemExit(main())
"""


def test_every_span_arrives_from_children_that_end_after_a_few_tasks_and_from_processes_that_stop(
    database: Database, redis_url: str, collector: Collector, receiver: Receiver, tmp_path: Path
) -> None:
    """Each change has exactly one span of each kind, whichever process had it in memory last."""
    orders = 30
    # Nothing is exported by the time: only ends of processes do.
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    env = environment(database.url, redis_url, **settings)
    with running("api.relay.main", database=database, redis_url=redis_url, **settings) as (api, processes):
        relay = processes["api.relay.main"]
        subscribe(api, receiver.url)
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-c", TWO_TASKS_PER_CHILD], cwd=ROOT, env=env, stdout=log, stderr=log
            )
        try:
            for number in range(orders):
                if number == orders // 3:
                    relay.stop()
                elif number == orders // 2:
                    relay.start()  # its first round finds changes that waited for it
                api.placed_order(at=later(hours=3 * number))
                time.sleep(0.02)  # so that they come in many batches

            def have_several_ended() -> bool:
                nonlocal orders
                if len(collector.named("fee_summaries.apply_changes")) > 3:
                    return True
                # A busy worker takes many changes in one task: further ones make further tasks.
                api.placed_order(at=later(hours=3 * orders))
                orders += 1
                return False

            wait_until(have_several_ended, "several children have ended", pause=0.2)
            wait_until(lambda: len(receiver.received) == orders, "every change was delivered")
            wait_until(
                lambda: database.value("SELECT min(position) FROM consumer_cursor") == orders, "and counted"
            )
        finally:
            worker.send_signal(signal.SIGTERM)
            status = worker.wait(10)
    assert status == 0, (tmp_path / "worker.log").read_text()
    for name in (
        *("POST /orders", "order_change.position"),
        *("fee_summaries.apply_change", "webhook_deliveries.apply_change", "POST"),
    ):
        assert Counter(span.trace_id for span in collector.named(name)).most_common(1)[0][1] == 1, name
        assert len(collector.named(name)) == orders, name
    children = [{span.trace_id for span in collector.named(name)} for name in ("POST /orders", "POST")]
    assert children[0] == children[1]


def test_a_collector_that_hangs_refuses_or_is_away_delays_nothing_and_is_logged_once_each_time(
    database: Database, redis_url: str
) -> None:
    """Orders are stored, answered and counted as ever; what could not be exported meanwhile is lost."""
    with Collector() as collector:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        with running(*PIPELINE, database=database, redis_url=redis_url, **settings) as (api, processes):
            exporting = [processes["api.server"], processes["api.relay.main"]]
            days = count()

            def place_orders_until_logged(event: str, times: int) -> None:
                """Place orders, each of which has to be stored fast, until both processes have logged it."""

                def placed() -> bool:
                    began = time.monotonic()
                    api.placed_order(at=later(days=next(days)))
                    assert time.monotonic() - began < 0.9  # an exporter that is waited for takes a second
                    return all(process.log.count(event) >= times for process in exporting)

                wait_until(placed, f"{event} was logged")
                assert [process.log.count(event) for process in exporting] == [times, times]

            collector.released.clear()
            place_orders_until_logged("traces_not_exported", 1)
            collector.status = 403
            collector.released.set()
            for _ in range(20):
                api.placed_order(at=later(days=next(days)))
                time.sleep(0.05)
            collector.status = 200
            place_orders_until_logged("traces_exported_again", 1)
            collector.close()
            place_orders_until_logged("traces_not_exported", 2)
            last = api.placed_order(at=later(days=next(days)))
            summary = api.fee_summaries(after_version=f"{last['id']}:1")
            assert summary["totals"]["orders"] == next(days)
            assert not [process for process in processes.values() if "Traceback" in process.log]
            for process in exporting:
                began = time.monotonic()
                process.stop()
                assert time.monotonic() - began < 8


def test_without_an_endpoint_no_process_imports_opentelemetry(
    database: Database, redis_url: str, receiver: Receiver
) -> None:
    """Every import of the real processes and their children is listed while an order goes all the way."""
    settings = {
        "PYTHONVERBOSE": "1",
        "OTEL_SERVICE_NAME": "ignored",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    }
    with running(*PIPELINE, database=database, redis_url=redis_url, **settings) as (api, processes):
        subscribe(api, receiver.url)
        answer = api.client.post("/orders", json=order_body(), headers={"traceparent": TRACEPARENT})
        assert answer.status_code == 201
        wait_until(lambda: bool(receiver.received), "the webhook was called")
        assert "traceparent" not in receiver.received[0].headers
        for module, process in processes.items():
            imported = set(re.findall(r"^import '([\w.]+)'", process.log, re.MULTILINE))
            assert {"shared.tracing.spans", "asyncpg"} <= imported, module
            packages = {name.partition(".")[0] for name in imported}
            assert not packages & {"opentelemetry", "google", "requests"}, module
    assert database.value("SELECT traceparent FROM order_change") is None


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' is not supported"),
        (
            {"EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: 'http/json' is",
        ),
        ({"EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT: must be an HTTP URL"),
        ({"EXPORTER_OTLP_TRACES_ENDPOINT": "http://a:b"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: must be"),
        ({"TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: 'zipkin' is not supported; use otlp or none"),
        ({"TRACES_EXPORTER": "none"}, "off"),
        ({"SDK_DISABLED": "True"}, "off"),
        ({"EXPORTER_OTLP_ENDPOINT": " "}, "off"),
        ({"EXPORTER_OTLP_PROTOCOL": "http/protobuf", "TRACES_EXPORTER": "otlp"}, "on"),
    ],
    ids=str,
)
def test_the_standard_variables_decide_whether_traces_are_exported(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    said: str,
) -> None:
    """A value that this service does not know is named, with what to set."""
    for name, value in {"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", **variables}.items():
        monkeypatch.setenv(f"OTEL_{name}", value)
    if said in ("on", "off"):
        assert wants_traces() is (said == "on")
    else:
        with pytest.raises(UnusableVariableError, match=f"^{re.escape(said)}"):
            wants_traces()


@pytest.mark.parametrize(
    "variables",
    [{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"}],
    ids=str,
)
def test_a_variable_that_cannot_be_used_is_named_and_the_service_runs_without_traces(
    database: Database, redis_url: str, collector: Collector, variables: dict[str, str]
) -> None:
    """Orders matter more than traces."""
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **variables}
    with running(database=database, redis_url=redis_url, **given) as (api, processes):
        api.placed_order()
        log = processes["api.server"].log
    (line,) = [line for line in log.splitlines() if "traces_are_off" in line]
    assert next(iter(variables)) in line
    assert collector.spans == []
