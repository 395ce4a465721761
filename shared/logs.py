"""Logging for every process: one line per event on standard output, as text or as JSON."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, TextIO

import structlog

from shared.control_characters import escape_control_characters, json_line
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


_NEEDS_QUOTES = re.compile(r"[ \t=\r\n\"']")
_PLACED = frozenset({"timestamp", "level", "event", "logger", "exception", "stack"})
"""What a line in text begins with, and what follows it on lines of its own."""


def _text_line(_logger: object, _method: str, event: structlog.types.EventDict) -> str:
    """Write an event as text: time, level, event, logger, then all else by name.

    All is escaped: URLs, headers, names and errors' messages come from outside. It is as structlog's
    ``ConsoleRenderer`` writes it, which takes ten times as long: each request has a line.
    """
    line = _join(event, str)
    if not line.isprintable():
        line = _join(event, escape_control_characters)
    more = [event[name] for name in ("stack", "exception") if event.get(name)]
    return "\n".join([line, *map(_indented, more)]) if more else line


def _join(event: structlog.types.EventDict, escape: Callable[[str], str]) -> str:
    parts = [f"{event['timestamp']} [{event['level']:<9}] {escape(str(event['event']))}"]
    if "logger" in event:
        parts.append(f"[{escape(event['logger'])}]")
    for name in sorted(event):
        if name in _PLACED:
            continue
        value = event[name]
        if isinstance(value, str):
            text = escape(value)
            if _NEEDS_QUOTES.search(text):
                text = repr(text)
        else:
            text = escape(repr(value))
        parts.append(f"{escape(name)}={text}")
    return " ".join(parts)


def _indented(text: str) -> str:
    """Escape and indent a traceback's lines, so that an error's message can't forge a line."""
    return "\n".join(f"    {escape_control_characters(line)}" for line in text.split("\n"))


class _Output:
    """The stream of the standard library's handler, into which structlog writes past its records."""

    def __init__(self, handler: logging.StreamHandler[TextIO]) -> None:
        self._handler = handler
        self._flushing: asyncio.AbstractEventLoop | None = None
        """The event loop that flushes before it waits for anything."""

    def write(self, line: str, *, at_once: bool) -> None:
        """Write a line. Whoever logs it is not to fail if that fails, as with the standard library's.

        Args:
            line: without its end.
            at_once: otherwise, in an event loop, all lines that it writes before it next waits are flushed
                together: a system call for each took a tenth of the time of a read.

        """
        handler = self._handler
        with handler.lock or nullcontext():
            try:
                handler.stream.write(f"{line}\n")
                if at_once or not self._flush_soon():
                    handler.flush()
            except Exception:  # noqa: BLE001 - a full disk, a closed pipe, characters that its encoding has not
                handler.handleError(logging.makeLogRecord({"msg": line}))

    def _flush_soon(self) -> bool:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if self._flushing is not loop:
            loop.call_soon(self._flush)
            self._flushing = loop
        return True

    def _flush(self) -> None:
        self._flushing = None
        try:
            self._handler.flush()
        except Exception:  # noqa: BLE001 - as above
            self._handler.handleError(logging.makeLogRecord({"msg": "lines before this"}))


class _Logger:
    """What structlog hands its lines to."""

    def __init__(self, output: _Output, name: str) -> None:
        self.name = name
        self.debug = self.info = partial(output.write, at_once=False)
        self.warning = self.error = self.critical = partial(output.write, at_once=True)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log what ends the process, in the format of all lines; the interpreter would print it past them."""
    if not issubclass(kind, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("process").critical("ended_by_error", exc_info=(kind, error, trace))


def configure_logs() -> None:
    """Have structlog and the standard library's loggers write to one stream, once, as a process starts."""
    before_rendering: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[structlog.types.Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(json_line) if settings().log_format == "json" else _text_line,
    ]
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
        processors=[*before_rendering, *render],
        logger_factory=partial(_Logger, _Output(handler)),
        wrapper_class=structlog.make_filtering_bound_logger(root.level),
        cache_logger_on_first_use=True,
    )
    sys.excepthook = _log_uncaught
