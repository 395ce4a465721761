"""A collector of traces: a real HTTP server on this machine that speaks OTLP, and keeps the spans it gets."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.local_server import LocalHandler, LocalServer

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class CollectedSpan:
    """A span as it was exported."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    """Empty: it is the first of its trace."""
    links: tuple[tuple[str, str], ...]
    """The trace's and the span's ids of each."""
    attributes: Mapping[str, Any]
    seconds: float
    has_failed: bool


class Collector:
    """Collects spans; a test decides the status that it answers with, and how late."""

    def __init__(self) -> None:
        self.spans: list[CollectedSpan] = []
        self.headers: list[Mapping[str, str]] = []
        self.status = 200
        self.released = threading.Event()
        """Cleared: it does not answer."""
        self.released.set()
        self.is_closed = False
        collector = self

        class Handler(LocalHandler):
            def respond(self) -> None:
                body = self.read_body()
                collector.released.wait()
                if collector.is_closed:
                    self.close_connection = True
                    return
                collector.headers.append(self.read_headers())
                if self.path == "/v1/traces" and collector.status == 200:
                    collector.spans += _spans_of(ExportTraceServiceRequest.FromString(body))
                self.answer_with(collector.status, ExportTraceServiceResponse().SerializeToString())

        self._server = LocalServer(Handler)
        self.url = self._server.url

    def named(self, name: str, trace_id: str | None = None) -> list[CollectedSpan]:
        """Return the spans of a name so far, of all traces or of one."""
        return [span for span in self.spans if span.name == name and trace_id in (None, span.trace_id)]

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, and answer nothing on connections that are open."""
        self.is_closed = True
        self.released.set()
        self._server.stop()


def _spans_of(request: ExportTraceServiceRequest) -> list[CollectedSpan]:
    return [
        CollectedSpan(
            service=_attributes(of_resource.resource.attributes)["service.name"],
            name=span.name,
            kind=span.kind,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
            attributes=_attributes(span.attributes),
            seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
            has_failed=span.status.code == span.status.STATUS_CODE_ERROR,
        )
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
