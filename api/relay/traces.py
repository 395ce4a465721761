"""Spans of the relay: one for each round that found new positions, and one for each of their changes."""

from __future__ import annotations

from shared.change_log import traces_after
from shared.tracing.spans import active_tracer


class RoundTraces:
    """Records what rounds did, once they have done it: most rounds find nothing."""

    def __init__(self) -> None:
        """Start without having recorded anything."""
        self._recorded: int | None = None

    async def record_once(self, began: int, before: int, after: int) -> int:
        """Record the positions that are new since the last round; return how many of them belong to traces.

        Args:
            began: when the round did (nanoseconds of Unix time).
            before: the end of the log when it began. Since the last round, positions may have been assigned
                while a message was being sent.
            after: the end of the log now.

        """
        tracer = active_tracer()
        first = before if self._recorded is None else self._recorded
        self._recorded = after
        if tracer is None or after <= first:
            return 0
        changes = await traces_after(first, after)
        attributes = {"oms.changes": after - first, "oms.last_position": after}
        span = tracer.begin_batch(
            "relay.round", [change.traceparent for change in changes], attributes, began
        )
        for change in changes:
            tracer.record_change("order_change.position", change.traceparent, change.position, span, began)
        span.end()
        return len(changes)
