"""Traces: one from a request to the webhook, from real processes to a real collector; or none at all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from stack.embedded_valkey import free_port
from tests.builders import order_body
from tests.drivers import Api, wait_until
from tests.processes import ServiceProcess
from tests.trace_collector import CollectedSpan, Collector
from tests.traced_system import CALLER, PIPELINE, TRACE, TRACEPARENT, running
from tests.webhook_steps import subscribe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers import Database
    from tests.webhook_receiver import Receiver

SERVER, CLIENT, CONSUMER = 2, 3, 5
"""Kinds of spans, as OTLP has them."""


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
