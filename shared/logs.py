"""Logging for every process: one line per event on standard output, as text or as JSON."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import sys
import time
from contextlib import nullcontext
from functools import lru_cache, partial
from select import PIPE_BUF
from typing import TYPE_CHECKING, TextIO

import structlog

from shared.control_characters import escape_control_characters, json_line
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType


_NEEDS_QUOTES = re.compile(r"[ \t=\r\n\"']")
_PLACED = frozenset({"timestamp", "level", "event", "logger", "exception", "stack"})
"""What a line in text begins with, and what follows it on lines of its own."""


def _complete(logger: _Logger, level: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Add what every line has; in one step, as each request has a line."""
    event = structlog.contextvars.merge_contextvars(logger, level, event)
    event["level"] = level
    event["logger"] = logger.name
    event["timestamp"] = _timestamp()
    if "stack_info" in event:
        event = _add_stack(logger, level, event)
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, level, event)
    return event


_add_stack = structlog.processors.StackInfoRenderer()


def _timestamp() -> str:
    """Return the time in UTC, as structlog writes it (RFC 3339)."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_text_of(seconds)}.{nanoseconds // 1000:06}Z"


@lru_cache(1)
def _text_of(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _text_line(_logger: object, _method: str, event: structlog.types.EventDict) -> str:
    """Write an event as text: time, level, event, logger, then all else by name.

    All is escaped: URLs, headers, names and errors' messages come from outside. It is as structlog's
    ``ConsoleRenderer`` writes it, which takes four times as long: each request has a line.
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


class _Handler(logging.StreamHandler[TextIO]):
    """Writes the lines of the standard library's loggers, and those of structlog past their records."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A character that its encoding has not would lose all lines that are written together.
            sys.stdout.reconfigure(errors="backslashreplace")
        super().__init__(sys.stdout)
        self._waiting: list[str] = []
        """Lines that the event loop writes before it waits for anything."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record of the standard library's, after all lines before it."""
        if self._waiting:
            self.flush()
        super().emit(record)

    def write(self, line: str) -> None:
        """Write a line at once."""
        with self.lock or nullcontext():
            self._waiting.append(line)
            self.flush()

    def write_soon(self, line: str) -> None:
        """Write a line together with all others of this turn of the event loop; at once where there is none.

        A system call for each line, in which other threads get the interpreter, took a tenth of a read.
        """
        with self.lock or nullcontext():
            self._waiting.append(line)
            if len(self._waiting) == 1:
                try:
                    asyncio.get_running_loop().call_soon(self.flush)
                except RuntimeError:
                    self.flush()

    def flush(self) -> None:
        """Write what waits. If that fails, those who log do not fail, as with the standard library's."""
        with self.lock or nullcontext():
            lines, self._waiting = self._waiting, []
            if not lines:
                super().flush()
                return
            for text in _join_lines(lines):
                try:
                    self.stream.write(text)
                    super().flush()
                except Exception:  # noqa: BLE001 - a full disk, a closed pipe
                    self.handleError(logging.makeLogRecord({"msg": text}))


def _join_lines(lines: Sequence[str]) -> Iterator[str]:
    """Join lines into texts that one system call writes whole, also to a pipe that other processes write to.

    More than ``PIPE_BUF`` bytes may be mixed with what others write (POSIX), so only a single line has more.
    """
    together: list[str] = []
    size = 0
    for line in lines:
        line_size = (len(line) if line.isascii() else len(line.encode(errors="replace"))) + 1
        if together and size + line_size > PIPE_BUF:
            yield "".join(together)
            together, size = [], 0
        together += (line, "\n")
        size += line_size
    yield "".join(together)


class _Logger:
    """What structlog hands its lines to."""

    def __init__(self, handler: _Handler, name: str) -> None:
        self.name = name
        self.debug = self.info = handler.write_soon
        self.warning = self.error = self.critical = handler.write


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log what ends the process, in the format of all lines; the interpreter would print it past them."""
    if not issubclass(kind, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("process").critical("ended_by_error", exc_info=(kind, error, trace))


def configure_logs() -> None:
    """Have structlog and the standard library's loggers write to one stream, once, as a process starts."""
    render: structlog.types.Processor = (
        structlog.processors.JSONRenderer(json_line) if settings().log_format == "json" else _text_line
    )
    handler = _Handler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _add_stack,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings().log_level)
    structlog.configure(
        processors=[_complete, render],
        logger_factory=partial(_Logger, handler),
        wrapper_class=structlog.make_filtering_bound_logger(root.level),
        cache_logger_on_first_use=True,
    )
    sys.excepthook = _log_uncaught
