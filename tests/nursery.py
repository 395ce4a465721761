"""Starts the service's processes out of one that has imported their libraries already.

Importing is most of what a process does in its first second, and a run of the tests starts some hundred. Only
libraries are imported ahead: our own modules each process imports for itself, in the environment that it is
given, and then runs as ``python -m`` would.

Linux alone has what this needs; elsewhere each process is started by itself. So it is everywhere by
``make run`` and in its tests, and by those of the containers' commands.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import IO

LIBRARIES = (
    *("asyncpg", "granian", "litestar", "msgspec", "piccolo.table", "piccolo.engine.postgres"),
    *("piccolo.apps.migrations.commands.forwards", "prometheus_client", "pydantic", "pydantic_settings"),
    *("redis.asyncio", "structlog", "swagger_ui", "yaml"),
    *("celery.apps.worker", "celery.bin.celery", "celery.concurrency.prefork", "kombu.transport.redis"),
)
READ_BY_LIBRARIES = {"REMAP_SIGTERM": "SIGQUIT"}
"""What one of them reads when it is imported, as ``shared.task_queue`` sets it before."""

LONGEST_REQUEST = 100_000
_LONGEST_STATUS = 10
IS_POSSIBLE = sys.platform == "linux" and hasattr(os, "pidfd_open")


class Child:
    """A process that the nursery started: as much of ``subprocess.Popen`` as the tests use."""

    def __init__(self, pid: int, handle: int, status: int) -> None:
        self.pid = pid
        self._handle = handle
        self._status = status

    @cached_property
    def returncode(self) -> int:
        """Its exit status, or the signal that ended it, negative; waited for."""
        return int(os.read(self._status, _LONGEST_STATUS))

    def poll(self) -> int | None:
        """Give its exit status, or None if it goes on."""
        return self.returncode if select.select([self._handle], [], [], 0)[0] else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and give its exit status.

        Raises:
            subprocess.TimeoutExpired: it goes on.

        """
        if not select.select([self._handle], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there still."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def __del__(self) -> None:
        """Close the handles."""
        os.close(self._handle)
        os.close(self._status)


_one_at_a_time = threading.Lock()
"""Who asks takes the next answer for theirs."""


@cache
def _nursery() -> socket.socket:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.nursery", str(its.fileno())]
    # It ends with the last process that holds our end of the pair.
    subprocess.Popen(command, pass_fds=[its.fileno()], cwd=Path(__file__).parent.parent)
    its.close()
    return ours


def prepare() -> None:
    """Begin to import, so that the first process need not wait."""
    if IS_POSSIBLE:
        _nursery()


def start(
    command: list[str], environment: dict[str, str], folder: Path, output: IO[bytes], errors: IO[bytes]
) -> Child:
    """Run a module with arguments as a process, in a session of its own; two files get what it prints."""
    request = json.dumps([command, environment, str(folder)]).encode()
    with _one_at_a_time:
        nursery = _nursery()
        socket.send_fds(nursery, [request], [output.fileno(), errors.fileno()])
        pid, handles, _, _ = socket.recv_fds(nursery, 100, 2)
    return Child(int(pid), *handles)


_waited_for: dict[int, int] = {}
"""In the nursery: each child's process id, and where its exit status is awaited."""


def _forget_ended(*_: object) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            waiting = _waited_for.pop(pid)
            with suppress(BrokenPipeError):  # nobody asks any more
                os.write(waiting, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(waiting)


def _serve(requests: socket.socket) -> list[str]:
    """Fork for each request until there are no more; come back in each child, with what to run."""
    signal.signal(signal.SIGCHLD, _forget_ended)
    while True:
        request, received, _, _ = socket.recv_fds(requests, LONGEST_REQUEST, 2)
        if not request:
            os._exit(0)
        # Until there is a handle, a child that ends at once must stay, or its number may be another's.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        child = os.fork()
        if child:
            handle = os.pidfd_open(child)
            status, _waited_for[child] = os.pipe()
            while os.getpgid(child) != child:  # whoever hears of it may kill its group at once
                time.sleep(0.001)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            socket.send_fds(requests, [str(child).encode()], [handle, status])
            for ours in (handle, status, *received):
                os.close(ours)
            continue
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        requests.close()
        for waiting in _waited_for.values():
            os.close(waiting)
        command, environment, place = json.loads(request)
        os.chdir(place)
        os.environ.clear()
        os.environ.update(environment)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 (a file descriptor is all that is wanted)
            for number, source in enumerate((nothing.fileno(), *received)):
                os.dup2(source, number)
        for number in received:
            os.close(number)
        return list(command)


def _run_as_main(module: str) -> None:
    """Run a module as ``python -m`` does, but for taking the interpreter down piece by piece at the end.

    That would touch, and so copy, most of what is shared with the nursery: 0.1 s for each process. Nor does a
    KeyboardInterrupt end in SIGINT here: none of our processes leaves one to Python.
    """
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 (whatever ends the process: the interpreter would print it too)
        sys.excepthook(*sys.exc_info())
        status = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    os.environ.update(READ_BY_LIBRARIES)
    for library in LIBRARIES:
        import_module(library)
    gc.freeze()  # what all children share none of them has to look through
    sys.argv = _serve(socket.socket(fileno=int(sys.argv[1])))
    _run_as_main(sys.argv[0])
