"""Traces: one from a request to the webhook, from real processes to a real collector; or none at all."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from shared.tracing.variables import UnusableVariableError, wants_traces
from stack.embedded_valkey import free_port
from tests.builders import later, order_body
from tests.drivers import Api, wait_until
from tests.processes import ROOT, ServiceProcess, environment
from tests.trace_collector import CollectedSpan, Collector
from tests.webhook_steps import subscribe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.drivers import Database
    from tests.webhook_receiver import Receiver

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"

SERVER, CLIENT, CONSUMER = 2, 3, 5
"""Kinds of spans, as OTLP has them."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@contextmanager
def running(
    *modules: str, database: Database, redis_url: str, **settings: str
) -> Iterator[tuple[Api, dict[str, ServiceProcess]]]:
    """Run the API and other processes, without orders, with the sample's services."""
    database.add_services()
    port = free_port()
    processes = {
        module: ServiceProcess(module, database=database.url, redis=redis_url, port=port, **settings)
        for module in ("api.server", *modules)
    }
    with ExitStack() as stack:
        for process in processes.values():
            stack.enter_context(process)
        api = stack.enter_context(Api(port))
        api.wait_until_ready()
        yield api, processes


PIPELINE = "api.relay.main", "worker.main"


def test_one_trace_leads_from_a_callers_span_to_the_webhooks_endpoint(
    database: Database, redis_url: str, collector: Collector, receiver: Receiver
) -> None:
    """The request, its statement, the change's position, both consumers and the attempt; of an update too."""
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=shop"}
    with running(*PIPELINE, database=database, redis_url=redis_url, **settings) as (api, processes):
        subscribe(api, receiver.url)
        headers = {"traceparent": TRACEPARENT, "tracestate": "shop=1", "x-request-id": "mine"}
        created = api.client.post("/orders", json=order_body(id="7"), headers=headers)
        assert created.status_code == 201
        wait_until(lambda: len(collector.named("POST", TRACE)) == 1, "the attempt was exported")
        api.client.patch("/orders/7", json={"totalfee": 8}, headers={"traceparent": TRACEPARENT})
        wait_until(lambda: len(collector.named("POST", TRACE)) == 2, "so was that of the update")
        log = processes["api.server"].log
    spans = {span.name: span for span in reversed(collector.spans) if span.trace_id == TRACE}
    request = spans["POST /orders"]
    assert (request.parent_id, request.kind) == (CALLER, SERVER)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/orders",
        "http.response.status_code": 201,
        "url.path": "/orders",
        "url.scheme": "http",
        "oms.request_id": "mine",
    }
    services = {
        "INSERT orders": "order-management-api",
        "order_change.position": "order-management-relay",
        "fee_summaries.apply_change": "order-management-worker",
        "webhook_deliveries.apply_change": "order-management-worker",
        "POST": "order-management-worker",
    }
    for name, service in services.items():
        assert (name, spans[name].service, spans[name].parent_id) == (name, service, request.span_id)
    assert spans["INSERT orders"].kind == CLIENT
    assert "$1" in spans["INSERT orders"].attributes["db.query.text"]
    # The batches are traces of their own, and both sides are linked.
    for change, batch in (
        ("order_change.position", "relay.round"),
        ("fee_summaries.apply_change", "fee_summaries.apply_changes"),
        ("webhook_deliveries.apply_change", "webhook_deliveries.apply_changes"),
    ):
        assert spans[change].attributes == {"oms.position": 1}
        of_batch = collector.named(batch)[0]
        assert of_batch.trace_id != TRACE
        assert (of_batch.trace_id, of_batch.span_id) in spans[change].links
        assert (TRACE, request.span_id) in of_batch.links
        assert of_batch.kind == CONSUMER
    of_batch = collector.named("fee_summaries.apply_changes")[0]
    statements = {span.name for span in collector.spans if span.parent_id == of_batch.span_id}
    assert {"MERGE fee_summary", "UPDATE consumer_cursor", "COMMIT"} <= statements
    # The endpoint can continue the trace, and the attempt says nothing of its path.
    attempt = spans["POST"]
    sent = receiver.received[0].headers
    assert sent["traceparent"] == f"00-{TRACE}-{attempt.span_id}-01"
    assert attempt.attributes["http.response.status_code"] == 204
    assert "/hook" not in str(attempt.attributes)
    # The update has a span of its own in the same trace, and its change the next position.
    (update,) = collector.named("PATCH /orders/{order_id}")
    (second,) = [s for s in collector.named("order_change.position") if s.attributes["oms.position"] == 2]
    assert (second.trace_id, second.parent_id) == (TRACE, update.span_id)
    (line,) = [line for line in log.splitlines() if "request_id=mine" in line]
    assert f"trace_id={TRACE}" in line
    assert all(headers["x-tenant"] == "shop" for headers in collector.headers)
    assert not [span for span in collector.spans if "health" in str(span.attributes.get("url.path"))]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331")],
        [("traceparent", f"ff-{TRACE}-{CALLER}-01")],
        [("traceparent", f"00-{'0' * 32}-{CALLER}-01")],
        [("traceparent", f"00-{TRACE}-{'0' * 16}-01")],
        [("traceparent", TRACEPARENT.upper())],
        [("traceparent", TRACEPARENT + "-more")],
        [("traceparent", "x" * 10_000)],
        [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)],
        [("traceparent", b"\xff\xfe")],
        [("tracestate", "shop=1")],
    ],
    ids=lambda headers: str(headers)[:40],
)
def test_a_malformed_traceparent_begins_a_new_trace(
    traced_api: tuple[Api, Collector], database: Database, headers: list[Any]
) -> None:
    """And refuses nothing."""
    api, collector = traced_api
    database.add_services()
    answer = api.client.post("/orders", json=order_body(), headers=headers)
    assert answer.status_code == 201
    parent = database.value("SELECT traceparent FROM order_change")
    trace_id = re.fullmatch(r"00-([0-9a-f]{32})-[0-9a-f]{16}-03", parent)[1]  # type: ignore[index]  # it matches
    assert trace_id != TRACE
    wait_until(lambda: bool(collector.named("POST /orders", trace_id)), "its span was exported")
    assert collector.named("POST /orders", trace_id)[0].parent_id == ""


@pytest.fixture(scope="module")
def traced_api(postgres_url: str, redis_url: str) -> Iterator[tuple[Api, Collector]]:
    """An API that exports its traces."""
    port = free_port()
    with (
        Collector() as collector,
        ServiceProcess(
            "api.server",
            database=postgres_url,
            redis=redis_url,
            port=port,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces",
            OTEL_SERVICE_NAME="bookings",
            OTEL_EXPORTER_OTLP_HEADERS="",  # as Compose passes what is not set
            OTEL_TRACES_SAMPLER="",
        ) as process,
        Api(port) as api,
    ):
        api.wait_until_ready()
        yield api, collector
        assert "traces_" not in process.log


def span_of(collector: Collector, name: str) -> CollectedSpan:
    """Wait for a span, and return the newest of its name."""
    wait_until(lambda: bool(collector.named(name)), f"{name} was exported")
    return collector.named(name)[-1]


def test_a_trace_that_its_caller_does_not_sample_is_not_exported_but_continued(
    traced_api: tuple[Api, Collector], database: Database
) -> None:
    """Whoever reads the change still knows the trace, and that it is not sampled."""
    api, collector = traced_api
    database.add_services()
    parent = {"traceparent": f"00-{'a' * 32}-{CALLER}-00"}
    assert api.client.post("/orders", json=order_body(), headers=parent).status_code == 201
    stored = database.value("SELECT traceparent FROM order_change")
    assert re.fullmatch(rf"00-{'a' * 32}-[0-9a-f]{{16}}-00", stored)
    assert CALLER not in stored
    api.client.get("/orders/404404")
    missing = span_of(collector, "GET /orders/{order_id}")
    assert (missing.attributes["http.response.status_code"], missing.has_failed) == (404, False)
    assert missing.service == "bookings"
    assert not [span for span in collector.spans if span.trace_id == "a" * 32]


def test_unknown_routes_and_methods_make_no_names_of_their_own(traced_api: tuple[Api, Collector]) -> None:
    """Names of spans must not grow with what callers send."""
    api, collector = traced_api
    api.client.request("BREW", "/coffee?pot=secret")
    brewed = span_of(collector, "HTTP")
    assert brewed.attributes["http.request.method"] == "_OTHER"
    assert "secret" not in str(brewed.attributes)


def test_a_stream_ends_its_span_when_it_begins(traced_api: tuple[Api, Collector], database: Database) -> None:
    """It lasts as long as its client stays."""
    api, collector = traced_api
    database.add_services()
    with api.client.stream("GET", "/order-changes/stream") as answer:
        assert answer.status_code == 200
        assert span_of(collector, "GET /order-changes/stream").seconds < 5


def test_what_an_operator_writes_by_hand_has_no_trace_unless_it_says_one(
    api: Api, database: Database
) -> None:
    """Another length than that of a `traceparent` is not stored; what else it may be, readers ignore."""
    api.placed_order()
    fee = "UPDATE orders SET totalfee = totalfee + 1, version = version + 1"
    for said in (None, TRACEPARENT, "x'; DROP", f"{TRACEPARENT}\n"):
        database.rows("SELECT set_config('oms.traceparent', $1, false)", said or "")
        database.rows(fee)
    database.rows("SELECT set_config('oms.traceparent', '', false)")
    stored = database.rows("SELECT traceparent FROM order_change ORDER BY id")
    assert [row["traceparent"] for row in stored] == [None, None, TRACEPARENT, None, None]


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
            wait_until(lambda: len(receiver.received) == orders, "every change was delivered")
            wait_until(
                lambda: database.value("SELECT min(position) FROM consumer_cursor") == orders, "and counted"
            )
            wait_until(
                lambda: len(collector.named("fee_summaries.apply_changes")) > 3, "several children have ended"
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
