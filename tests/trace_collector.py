"""A collector of traces: a real HTTP server on this machine that speaks OTLP, and keeps the spans it gets."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

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

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.released.wait()
                if collector.is_closed:
                    self.close_connection = True
                    return
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                if self.path == "/v1/traces" and collector.status == 200:
                    collector.spans += _spans_of(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(collector.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                """Print nothing: a process that ends does not wait for an answer."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02), daemon=True)

    def named(self, name: str, trace_id: str | None = None) -> list[CollectedSpan]:
        """Return the spans of a name so far, of all traces or of one."""
        return [span for span in self.spans if span.name == name and trace_id in (None, span.trace_id)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, and answer nothing on connections that are open."""
        self.is_closed = True
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


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
