"""The API's process: ``python -m api.server``, granian on OMS_HOST and OMS_PORT."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings

from api.http.open_connections import most_connections, raise_open_files
from console.sessions import prepare_sessions
from shared.api_access import resolve
from shared.database.engine import DatabaseUnavailableError
from shared.database.stored_cell import check_cell
from shared.fee_summaries import check_time_zone
from shared.logs import configure_logs
from shared.metrics.shared_counts import shared_counts
from shared.settings import SettingsError, check_listening, settings
from shared.stored_secrets import check_secret_keys
from shared.tracing.spans import check_tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


LARGEST_HEADER_BUFFER_BYTES = 65_536
"""More than ``api/http/request_sizes.py`` accepts, so that it can say what is too large."""

LONGEST_STOP_SECONDS = 28
"""From SIGTERM to the end of the last request; then it is killed. Supervisors usually wait for 30 s."""

SECONDS_TO_NEXT_INTERRUPT = 1.0


class _Farewell(logging.Filter):
    """Drops the line with which granian says goodbye: it has said that its worker has stopped."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to keep the record."""
        return "see ya" not in record.getMessage()


# Its lines go to the handler of ``configure_logs``, like all others.
_GRANIAN_LOGS = {
    "filters": {"farewell": {"()": _Farewell}},
    "loggers": {
        "_granian": {"handlers": [], "filters": ["farewell"], "propagate": True},
        "granian.access": {"handlers": []},
    },
}


def _address(host: str) -> str:
    # granian takes no names.
    addresses = resolve(host)
    if not addresses:
        raise SettingsError("OMS_HOST: has no address; use one, such as 127.0.0.1")
    return str(addresses[0])


def main() -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SettingsError: other machines could reach it, and it would let everyone in.
        OtherTimeZoneError: the fee summaries count days in another zone than OMS_TIME_ZONE.
        OtherCellError: the database is of another cell than OMS_CELL.
        MissingSecretKeyError: something is encrypted under a key that OMS_SECRET_KEY lacks.

    """
    check_listening()
    configure_logs()
    check_tracing()
    raise_open_files()
    # If PostgreSQL is unavailable this can't be checked; fee summaries then count days in the stored zone,
    # and an answer that can't be decrypted is a 503.
    with contextlib.suppress(DatabaseUnavailableError):
        asyncio.run(check_time_zone())
        asyncio.run(check_cell())
        asyncio.run(check_secret_keys(of_answers=True))
    prepare_sessions()
    with shared_counts(settings().api_processes):
        _serve()


def _stop_seconds() -> int:
    """Return how long after SIGTERM a process is killed: requests may wait for PostgreSQL as long as ever."""
    return min(math.ceil(settings().drain + settings().statement_timeout), LONGEST_STOP_SECONDS)


def _serve() -> None:
    Granian(
        "api.app:create_app",
        factory=True,
        address=_address(settings().host),
        port=settings().port,
        interface=Interfaces.ASGI,
        workers=settings().api_processes,
        websockets=False,
        # HTTP/2 has no limit for a connection that is silent or never ends its preface.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(
            # From the beginning of a connection, or its last answer, to the end of the next header.
            header_read_timeout=int(settings().idle_timeout * 1000),
            max_buffer_size=LARGEST_HEADER_BUFFER_BYTES,
        ),
        # Connections beyond this, idle ones included, wait: ``api/http/open_connections.py`` makes room.
        backpressure=most_connections(),
        respawn_failed_workers=True,
        workers_kill_timeout=_stop_seconds(),
        log_access=False,
        log_dictconfig=_GRANIAN_LOGS,
    ).serve()


def end_with_server() -> None:
    """In granian's worker process: have the kernel end it (SIGKILL) if the main process is killed.

    It would hold the port, and serve without anybody who could stop it. Linux only.
    """
    parent = multiprocessing.parent_process()
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # 1: PR_SET_PDEATHSIG
    if os.getppid() != parent.pid:  # it was killed before the line above
        os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def draining_on_signals(drain: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
    """Call ``drain`` in the event loop at SIGTERM, and ``end`` when ``OMS_DRAIN`` has passed, or at SIGINT.

    granian stops listening at either signal. It then waits for all requests to end before it tells the
    application, so a stream that ends only then would block the shutdown.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals; a test in another thread calls the functions itself
        return
    loop = asyncio.get_running_loop()
    has_begun = False

    def begin() -> None:
        nonlocal has_begun
        if has_begun:  # a supervisor may signal all processes, and granian passes its own on
            return
        has_begun = True
        drain()
        loop.call_later(settings().drain, interrupt)

    def interrupt() -> None:
        # granian's handler of SIGINT is the same as the one of SIGTERM, which ours replaced. Again until it
        # has taken effect, for the reason below.
        os.kill(os.getpid(), signal.SIGINT)
        loop.call_later(SECONDS_TO_NEXT_INTERRUPT, interrupt)

    # The event loop calls the server's handlers, woken through a file descriptor whatever Python's own
    # handlers do (asyncio's do nothing, uvloop's are only for when that descriptor is full). So replacing
    # Python's does not disable the server's: that of SIGTERM has to be replaced in the event loop too.
    #
    # Python's handlers are called whenever a signal arrives; those of the event loop are not while it does
    # not run: between the start of the application and serving, uvloop has no descriptor, and forgets.
    loop.add_signal_handler(signal.SIGTERM, lambda: None)
    before = {
        number: signal.signal(number, lambda *_, call=call: loop.call_soon_threadsafe(call))
        for number, call in ((signal.SIGTERM, begin), (signal.SIGINT, end))
    }
    for number in before:
        signal.siginterrupt(number, False)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
