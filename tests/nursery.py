"""Starts the service's processes out of one that has imported their libraries already.

Importing is most of what a process does in its first second, and a run of the tests starts some seventy. Only
libraries are imported ahead, and none that looks at the environment then: our own modules each process
imports for itself, in the environment that it is given, and then runs as ``python -m`` would.

Linux alone has what this needs; elsewhere each process is started by itself. So it is everywhere by
``make run`` and in its tests, and by those of the containers' commands.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO

LIBRARIES = (
    *(
        "asyncpg",
        "granian",
        "litestar",
        "msgspec",
        "piccolo.engine.postgres",
        "piccolo.table",
        "prometheus_client",
    ),
    *("pydantic", "pydantic_settings", "redis.asyncio", "structlog", "swagger_ui", "yaml"),
)
"""Not Celery: its library reads REMAP_SIGTERM when it is imported."""

LONGEST_REQUEST = 100_000
IS_POSSIBLE = sys.platform == "linux" and hasattr(os, "pidfd_open")


class Child:
    """A process that the nursery started: as much of ``subprocess.Popen`` as the tests use."""

    def __init__(self, pid: int, handle: int) -> None:
        self.pid = pid
        self._handle = handle

    def poll(self) -> int | None:
        """Tell whether it has ended: None if not, otherwise 0, whatever its exit status was."""
        return 0 if select.select([self._handle], [], [], 0)[0] else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it goes on.

        """
        if not select.select([self._handle], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return 0

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there still."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def __del__(self) -> None:
        """Close the handle."""
        os.close(self._handle)


@cache
def _nursery() -> socket.socket:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.nursery", str(its.fileno())]
    # It ends with the last process that holds our end of the pair.
    subprocess.Popen(command, pass_fds=[its.fileno()], cwd=Path(__file__).parent.parent)
    its.close()
    return ours


def start(module: str, environment: dict[str, str], folder: str, output: IO[bytes]) -> Child:
    """Run a module as a process, in a session of its own; ``output`` gets what it prints."""
    nursery = _nursery()
    request = json.dumps([module, environment, folder]).encode()
    socket.send_fds(nursery, [request], [output.fileno()])
    pid, (handle,), _, _ = socket.recv_fds(nursery, 100, 1)
    return Child(int(pid), handle)


def _forget_ended(*_: object) -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _serve(requests: socket.socket) -> str:
    """Fork for each request until there are no more; come back in each child, with the module to run."""
    signal.signal(signal.SIGCHLD, _forget_ended)
    while True:
        request, (*received,), _, _ = socket.recv_fds(requests, LONGEST_REQUEST, 1)
        if not request:
            os._exit(0)
        # Until there is a handle, a child that ends at once must stay, or its number may be another's.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        child = os.fork()
        if child:
            handle = os.pidfd_open(child)
            while os.getpgid(child) != child:  # whoever hears of it may kill its group at once
                time.sleep(0.001)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            socket.send_fds(requests, [str(child).encode()], [handle])
            os.close(handle)
            os.close(received[0])
            continue
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        requests.close()
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        module, environment, folder = json.loads(request)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 (a file descriptor is all that is wanted)
            for source, place in ((nothing.fileno(), 0), (received[0], 1), (received[0], 2)):
                os.dup2(source, place)
        os.close(received[0])
        return str(module)


if __name__ == "__main__":
    for library in LIBRARIES:
        import_module(library)
    gc.freeze()  # what all children share none of them has to look through
    asked_for = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv = [asked_for]
    runpy.run_module(asked_for, run_name="__main__", alter_sys=True)
