"""Spans of the relay: one for each round that found new positions, and one for each of their changes."""

from __future__ import annotations

from shared.change_log import traces_after
from shared.tracing.spans import active_tracer


class RoundTraces:
    """Records what rounds did, once they have done it: most rounds find nothing."""

    def __init__(self) -> None:
        """Start without a position: changes that had theirs before are not recorded again."""
        self._recorded: int | None = None

    async def record_once(self, began: int, last_position: int) -> int:
        """Record the positions that are new since the last call; return how many changes of traces have one.

        Args:
            began: when the round did (nanoseconds of Unix time).
            last_position: the end of the log. Positions that another relay assigned are recorded here too.

        """
        tracer = active_tracer()
        first, self._recorded = self._recorded, last_position
        if tracer is None or first is None or last_position <= first:
            return 0
        changes = await traces_after(first, last_position)
        attributes = {"oms.changes": last_position - first, "oms.last_position": last_position}
        span = tracer.begin_batch(
            "relay.round", [change.traceparent for change in changes], attributes, began
        )
        for change in changes:
            tracer.record_change("order_change.position", change.traceparent, change.position, span, began)
        span.end()
        return len(changes)
