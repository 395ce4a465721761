"""A subscriber of the Redis stream that follows whichever server is the master."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import redis

STREAM = "order-changes"


class StreamFollower(threading.Thread):
    """Reads the stream from its first position on, as docs/subscribing.md says, and notes what is amiss.

    Args:
        connect: returns a client of the server that is the master at present.

    """

    def __init__(self, connect: Callable[[], redis.Redis]) -> None:
        super().__init__(daemon=True)
        self._connect = connect
        self._ended = threading.Event()
        self.last = 0
        self.notifications: list[str] = []
        self.faults: list[str] = []
        self.longest_silence = 0.0
        """The longest time between two reads that brought entries, in seconds."""

    def run(self) -> None:
        """Read until the end of the block."""
        client = self._connect()
        read_at = time.monotonic()
        while not self._ended.is_set():
            try:
                entries: Any = client.xrange(STREAM, min=f"({self.last}-0", count=500)
            except redis.RedisError:
                time.sleep(0.1)
                continue
            for entry, fields in entries:
                position = int(entry.partition("-")[0])
                if position != self.last + 1:
                    self.faults.append(f"{position} after {self.last}")
                self.last = position
                self.notifications.append(fields["notification"])
            if entries:
                self.longest_silence = max(self.longest_silence, time.monotonic() - read_at)
                read_at = time.monotonic()
            time.sleep(0.02)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self.join(10)
