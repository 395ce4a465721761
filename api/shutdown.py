"""Noticing early that the process is told to stop.

granian waits for all requests to end before it tells the application, so a stream that only ends then would
hold it for ever.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def noticing_shutdown(end: Callable[[], None]) -> Iterator[None]:
    """Call ``end`` in the event loop as soon as SIGTERM or SIGINT arrives, besides what the server does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's; a test that runs the application elsewhere ends it itself
        return
    loop = asyncio.get_running_loop()

    def notice(_number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(end)

    numbers = (signal.SIGTERM, signal.SIGINT)
    # The server's handler sits in the event loop and is woken through a file descriptor, whatever Python's
    # handler is (asyncio's does nothing, uvloop's is for when that descriptor is full): replacing that one
    # leaves the server's in place.
    before = {number: signal.signal(number, notice) for number in numbers}
    for number in numbers:
        signal.siginterrupt(number, False)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
