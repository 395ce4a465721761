"""OpenTelemetry's SDK: the only file that imports it. It makes spans and exports them in batches."""

from __future__ import annotations

import logging
import os
import re
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

import structlog
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.tracing.variables import drop_empty_variables, names_the_service

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    Attributes = Mapping[str, str | float]

log = structlog.get_logger("tracing")

EXPORT_MILLISECONDS = 1_000
"""Pause between two exports, unless OTEL_BSP_SCHEDULE_DELAY says another: what a killed process loses."""

MOST_WAITING = 8_192
"""Spans that may wait for the export, unless OTEL_BSP_MAX_QUEUE_SIZE says another number.

More than the changes of one batch, each of which has a span; about 20 MB. Others are dropped.
"""

MOST_LINKS = 128
"""Links of a span to changes. The span of each change has a link back, so none is lost."""

LONGEST_STATEMENT = 2_048

_NO_PARENT = Context()
_propagator = TraceContextTextMapPropagator()


class Span:
    """A span that has begun. One that is never ended is not exported."""

    __slots__ = ("_span",)

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hexadecimal digits."""
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    @property
    def is_recorded(self) -> bool:
        """Whether it will be exported. One that is not still has an identity, which others may continue."""
        return self._span.is_recording()

    def set(self, attributes: Attributes) -> None:
        """Set attributes; names are those of the semantic conventions, or begin with ``oms.``."""
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        """Give it a name that was not known when it began."""
        self._span.update_name(name)

    def fail(self, kind: str) -> None:
        """Mark it as failed, with the kind of error: a class of low cardinality, or a status code."""
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))

    def link(self, traceparent: str) -> None:
        """Link it to the span of a ``traceparent``; one that is malformed is ignored."""
        context = _context_of(traceparent)
        if context.is_valid:
            self._span.add_link(context)

    def end(self) -> None:
        """End it; it is exported if its trace is sampled."""
        self._span.end()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it the parent of the spans that begin in a block."""
        token = attach(trace.set_span_in_context(self._span))
        try:
            yield
        finally:
            detach(token)


class Tracer:
    """Makes spans, and exports them from a thread of its own. One per process, made after its fork."""

    def __init__(self, service: str) -> None:
        """Start the exporting thread.

        Args:
            service: what the service is called if the environment does not say.

        Raises:
            ValueError: a variable of the SDK has a value that it refuses.

        """
        drop_empty_variables()
        lines = _SdkLines()
        self._exporter = _Exporter(OTLPSpanExporter(), lines)
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=None if "OTEL_BSP_MAX_QUEUE_SIZE" in os.environ else MOST_WAITING,
            schedule_delay_millis=None if "OTEL_BSP_SCHEDULE_DELAY" in os.environ else EXPORT_MILLISECONDS,
        )
        resource = Resource.create({} if names_the_service() else {"service.name": service})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("order-management")

    def flush(self) -> None:
        """Export the spans that have ended, the last ones. It blocks while the collector does not answer."""
        self._processor.shutdown()

    def close(self) -> None:
        """Give up what ``flush`` has not exported yet. The thread is a daemon, and ends with the process."""
        self._exporter.shutdown()

    def current_headers(self) -> Mapping[str, str]:
        """Return ``traceparent`` of the current span, and ``tracestate`` if it has one."""
        headers: dict[str, str] = {}
        _propagator.inject(headers)
        return headers

    def begin_request(
        self, name: str, attributes: Attributes, traceparent: Sequence[str], tracestate: Sequence[str]
    ) -> Span:
        """Begin the span of a request, in the trace of its headers, or in a new one if they have none."""
        carrier = {"traceparent": list(traceparent), "tracestate": list(tracestate)}
        parent = _propagator.extract(carrier, _NO_PARENT) if len(traceparent) == 1 else _NO_PARENT
        return Span(self._tracer.start_span(name, parent, SpanKind.SERVER, attributes))

    def begin_attempt(self, attributes: Attributes, traceparent: str | None) -> Span:
        """Begin the span of a request that is sent, in the trace of a change if that has one."""
        return Span(self._tracer.start_span("POST", _parent(traceparent), SpanKind.CLIENT, attributes))

    def begin_batch(self, name: str, traceparents: Sequence[str], attributes: Attributes, at: int) -> Span:
        """Begin the span of something that was done to many changes at once, with links to them.

        Args:
            name: what was done.
            traceparents: of the changes that have one.
            attributes: of the span.
            at: when it began (nanoseconds of Unix time).

        """
        links = [Link(_context_of(text)) for text in traceparents[:MOST_LINKS]]
        return Span(self._tracer.start_span(name, _NO_PARENT, SpanKind.CONSUMER, attributes, links, at))

    def record_change(self, name: str, traceparent: str, position: int, batch: Span, at: int) -> None:
        """Record, in the trace of a change, what a batch did to it: from the batch's beginning until now."""
        links = (Link(batch._span.get_span_context()),)  # noqa: SLF001 - of this file
        parent = _parent(traceparent)
        self._tracer.start_span(name, parent, SpanKind.CONSUMER, {"oms.position": position}, links, at).end()

    @contextmanager
    def statement(self, sql: str) -> Iterator[None]:
        """Trace a statement, as a child of the current span; without one, it has none."""
        # A task may outlive the request in whose context it was created, and share its ended span.
        if not trace.get_current_span().is_recording():
            yield
            return
        summary, attributes = _describe(sql)
        span = self._tracer.start_span(summary, None, SpanKind.CLIENT, attributes)
        try:
            yield
        except BaseException as error:
            # PostgreSQL's code says more than the name of a class.
            span.set_attribute("error.type", getattr(error, "sqlstate", None) or type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            span.end()


def _parent(traceparent: str | None) -> Context:
    return _propagator.extract({"traceparent": traceparent}, _NO_PARENT) if traceparent else _NO_PARENT


def _context_of(traceparent: str) -> trace.SpanContext:
    return trace.get_current_span(_parent(traceparent)).get_span_context()


_WRITES = re.compile(r'\b(INSERT|UPDATE|DELETE|MERGE)\s+(?:INTO\s+|FROM\s+)?"?([a-z_]+)')
_READS = re.compile(r'\bFROM\s+"?([a-z_]+)')


@lru_cache(1_024)
def _describe(sql: str) -> tuple[str, Attributes]:
    """Return the name of a statement's span, such as ``INSERT orders``, and its attributes.

    The text is that of the source, with parameters in place of values.
    """
    text = " ".join(sql.split())
    if match := _WRITES.search(text):
        summary = f"{match[1]} {match[2]}"
    elif match := _READS.search(text):
        summary = f"SELECT {match[1]}"
    else:
        summary = text.split(" ", 1)[0]
    return summary, {
        "db.system.name": "postgresql",
        "db.query.summary": summary,
        "db.query.text": text[:LONGEST_STATEMENT],
    }


class _SdkLines(logging.Handler):
    """Takes the lines of the SDK, which would say with each export that a collector is away."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.reason = ""
        """Why the export under way has failed first."""
        self._seen: set[str] = set()
        sdk = logging.getLogger("opentelemetry")
        sdk.handlers, sdk.propagate = [self], False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what the exporter says, and log anything else once."""
        text = record.getMessage()
        if record.name.startswith("opentelemetry.exporter"):
            self.reason = self.reason or text
        elif not record.name.startswith("opentelemetry.trace") and record.msg not in self._seen:
            # Not what is wrong with headers: callers sent them, and logs contain no header.
            self._seen.add(record.msg)
            log.warning("tracing_warning", reason=text)


class _Exporter(SpanExporter):
    """Exports over HTTP, and logs when that begins to fail, and when it works again."""

    def __init__(self, exporter: OTLPSpanExporter, lines: _SdkLines) -> None:
        self._exporter = exporter
        self._lines = lines
        self._is_failing = self._is_shut_down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans; those that can't be exported are dropped."""
        self._lines.reason = ""
        result = self._exporter.export(spans)
        has_failed = result is not SpanExportResult.SUCCESS
        if has_failed and not self._is_failing:
            log.warning("traces_not_exported", reason=self._lines.reason)
        elif self._is_failing and not has_failed:
            log.info("traces_exported_again")
        self._is_failing = has_failed
        return result

    def shutdown(self) -> None:
        """Stop, also in the middle of an export."""
        if not self._is_shut_down:
            self._is_shut_down = True
            self._exporter.shutdown()
