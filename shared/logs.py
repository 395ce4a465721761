"""Logging for every process: one line per event on standard output, as text or as JSON."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

from shared.control_characters import escape_control_characters, json_line
from shared.settings import settings

if TYPE_CHECKING:
    from types import TracebackType


def _escape_values(
    _logger: object, _method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    """Escape what was logged: URLs, headers, names and errors' messages come from outside."""
    return {
        escape_control_characters(name): escape_control_characters(value) if isinstance(value, str) else value
        for name, value in event.items()
    }


def _escape_lines(_logger: object, _method: str, text: Any) -> str:
    """Escape what is left, a traceback's lines. Indented, an error's message can't forge a line."""
    return "\n    ".join(map(escape_control_characters, text.split("\n")))


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log what ends the process, in the format of all lines; the interpreter would print it past them."""
    if not issubclass(kind, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("process").critical("ended_by_error", exc_info=(kind, error, trace))


def configure_logs() -> None:
    """Route structlog and the standard library's loggers to one handler, once, at the start of a process."""
    before_rendering: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    as_json = settings().log_format == "json"
    render: list[structlog.types.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(json_line)]
        if as_json
        else [
            _escape_values,
            # The plain formatter: rich, if installed, would print every frame's local variables, with
            # secrets.
            structlog.dev.ConsoleRenderer(
                colors=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            ),
            _escape_lines,
        ]
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before_rendering,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings().log_level)
    structlog.configure(
        processors=[*before_rendering, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    sys.excepthook = _log_uncaught
