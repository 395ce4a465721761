"""Reads the memory of processes while something else runs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

import psutil

from bench.processes import family

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MB = 1024**2


def largest_of(root: psutil.Process, *, without_root: bool = False) -> float:
    """Return the largest resident set of a process and its children, in MB.

    Args:
        root: the main process.
        without_root: only of its children.

    """
    sizes = [0.0]
    for process in family(root)[1 if without_root else 0 :]:
        try:
            sizes.append(process.memory_info().rss / _MB)
        except psutil.NoSuchProcess:  # a worker's child is replaced after some tasks
            continue
    return max(sizes)


class MemorySamples:
    """Reads in a thread of its own, for the length of a ``with`` block.

    Args:
        read: returns megabytes by name.
        every: seconds between two readings.

    """

    def __init__(self, read: Callable[[], Mapping[str, float]], *, every: float) -> None:
        self._read = read
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.taken: list[tuple[float, Mapping[str, float]]] = []
        """Each with its time (`time.monotonic`)."""

    def _run(self) -> None:
        while not self._over.is_set():
            self._take()
            self._over.wait(self._every)

    def _take(self) -> None:
        self.taken.append((time.monotonic(), self._read()))

    def __enter__(self) -> Self:
        self._take()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._take()
