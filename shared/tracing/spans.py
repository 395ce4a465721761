"""What processes call to be traced, whether traces are exported or not.

Each span is made by hand, in the few places that a reader of a trace looks for:
``docs/operations/tracing.md`` lists them. Without an endpoint (``variables.py``) nothing of OpenTelemetry is
imported, and every call here returns at once.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING

import structlog

from shared.tracing.variables import UnusableVariableError, wants_traces

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from shared.tracing.sdk import Tracer

log = structlog.get_logger("tracing")

END_SECONDS = 2.0
"""How long a process that ends waits for its last spans to be exported."""

_NOTHING = nullcontext()
_tracer: Tracer | None = None


def check_tracing() -> bool:
    """Return whether traces will be exported; log why not, if they should be. For a process's start."""
    try:
        return wants_traces()
    except UnusableVariableError as error:
        log.warning("traces_are_off", reason=str(error))
        return False


def import_tracing() -> None:
    """Import the SDK if traces will be exported, so that processes that are forked later share it."""
    if check_tracing():
        import shared.tracing.sdk  # noqa: F401


def begin_tracing(process: str) -> None:
    """Begin to export traces, if the environment asks for it. It starts a thread, so not before a fork.

    Args:
        process: ``api``, ``relay`` or ``worker``, for the service's name if the environment names none.

    """
    global _tracer  # noqa: PLW0603 - one for the process, as the settings
    try:
        if _tracer is not None or not wants_traces():
            return
        from shared.tracing.sdk import Tracer

        _tracer = Tracer(f"order-management-{process}")
    except UnusableVariableError:
        return  # ``check_tracing`` has logged it
    except ValueError as error:
        log.warning("traces_are_off", reason=str(error))


def end_tracing() -> None:
    """Export the spans that have ended and stop, within ``END_SECONDS``."""
    global _tracer
    tracer, _tracer = _tracer, None
    if tracer is None:
        return
    # The SDK waits for a collector up to half a minute, and its own time limits do not shorten that.
    flushing = threading.Thread(target=tracer.flush, daemon=True)
    flushing.start()
    flushing.join(END_SECONDS)
    tracer.close()


def active_tracer() -> Tracer | None:
    """Return what makes spans; None if traces are not exported."""
    return _tracer


def current_traceparent() -> str | None:
    """Return the current span as a ``traceparent`` (W3C Trace Context); None if there is none."""
    return None if _tracer is None else _tracer.current_headers().get("traceparent")


def propagation_headers() -> Mapping[str, str]:
    """Return the headers that let the receiver of a request continue the current trace."""
    return {} if _tracer is None else _tracer.current_headers()


def statement_span(sql: str) -> AbstractContextManager[object]:
    """Trace a block that runs a statement of SQL, if it is part of a span."""
    return _NOTHING if _tracer is None else _tracer.statement(sql)
