"""Spans of the consumers: one for each batch, linked to its changes, and one in the trace of each change."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from shared.change_log import traces_after
from shared.tracing.spans import active_tracer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from shared.change_log import ChangeTrace
    from shared.tracing.sdk import Span


class BatchTrace:
    """Traces a transaction that applies a batch: the block has to contain it, and may find nothing to do.

    The changes get their spans after the commit: once each, as the batch is applied once.
    """

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer
        self._began = time.time_ns()
        self._span: Span | None = None
        self._changes: Sequence[ChangeTrace] = ()
        self._current = ExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def begin(self, after: int, last: int) -> None:
        """Begin the span of a batch, in its transaction: the changes after a position, up to another."""
        tracer = active_tracer()
        if tracer is None:
            return
        self._changes = await traces_after(after, last)
        self._span = tracer.begin_batch(
            f"{self._consumer}.apply_changes",
            [change.traceparent for change in self._changes],
            {"oms.consumer": self._consumer, "oms.changes": last - after, "oms.last_position": last},
            self._began,
        )
        self._current.enter_context(self._span.current())

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._current.close()
        tracer = active_tracer()
        if tracer is None or self._span is None:
            return
        if error is not None:
            self._span.fail(type(error).__name__)
        else:
            for change in self._changes:
                name = f"{self._consumer}.apply_change"
                tracer.record_change(name, change.traceparent, change.position, self._span, self._began)
        self._span.end()
