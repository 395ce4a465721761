"""Start processes that end with their parent, stop them, and find those that an earlier run left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

_PR_SET_PDEATHSIG = 1
# Loaded here because no library may be loaded between fork and exec.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class StackError(Exception):
    """The local stack can't continue; the text says why and what to do, in one line."""


class DataMissingError(StackError):
    """A server's data is missing while the stack runs: starting it with none would hide that."""


def die_with_parent(parent: int, with_signal: signal.Signals) -> None:
    """Have the kernel send this process ``with_signal`` when the thread that started it ends.

    Linux only. Elsewhere it does nothing, and the next start stops the processes left behind. The signal is
    sent when the parent *thread* ends: start long-lived processes from the main thread.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0)
    # If the parent died between the fork and the line above, the kernel sends no signal any more.
    if os.getppid() != parent:
        os.kill(os.getpid(), with_signal)


def start_process(
    command: Sequence[str],
    *,
    output: int | IO[bytes],
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    death_signal: signal.Signals = signal.SIGTERM,
    owner: pwd.struct_passwd | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that a terminal's Ctrl-C reaches only the supervisor.

    Args:
        command: program and arguments.
        output: for standard output and standard error.
        env: the whole environment; this process's if absent.
        stdin: for standard input.
        death_signal: sent to it if this process is killed (Linux).
        owner: the user to run as, in that user's main group only; needs root.
        cwd: the working folder; this process's if absent.

    """
    parent = os.getpid()
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=env,
        cwd=cwd,
        user=owner and owner.pw_uid,
        group=owner and owner.pw_gid,
        extra_groups=owner and [],
        start_new_session=True,
        # It runs after the change of user, which would clear the death signal.
        preexec_fn=lambda: die_with_parent(parent, death_signal),  # noqa: PLW1509 - only system calls
    )


def stop_processes(
    *processes: subprocess.Popen[bytes],
    grace: float,
    with_signal: signal.Signals = signal.SIGTERM,
    meanwhile: Callable[[], object] = lambda: time.sleep(0.02),
) -> bool:
    """Stop processes at the same time, with their process groups; return whether none had to be killed.

    Args:
        processes: started by `start_process`; they may have ended already.
        grace: seconds to end after ``with_signal``; then the process groups are killed.
        with_signal: the signal that asks them to end.
        meanwhile: called repeatedly while waiting, for example to read the output pipes, which
            could otherwise fill up and block the processes.

    """
    for process in processes:
        if process.poll() is None:
            process.send_signal(with_signal)
    deadline = time.monotonic() + grace
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        meanwhile()
    none_killed = all(process.poll() is not None for process in processes)
    for process in processes:
        # Forked children can outlive their leader (a Celery pool whose main process died). The group's id
        # can't be reused while one of them lives. If none does, the id was freed only a moment ago, and the
        # kernel reuses it only after it has gone through all other ids.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return none_killed


def stop_leftovers(
    leftovers: Iterable[psutil.Process],
    *,
    grace: float,
    with_signal: signal.Signals = signal.SIGTERM,
    last_resort: signal.Signals = signal.SIGKILL,
) -> int:
    """Stop processes of an earlier run; return how many. psutil never signals a process id that was reused.

    Not with psutil's `wait_procs`: it waits for zombies too, which the init of some containers never reaps.

    Raises:
        StackError: a process can't be stopped.

    """
    processes = list(leftovers)
    ignore_ended = contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied)
    left = processes
    for signal_number, seconds in ((with_signal, grace), (last_resort, 5.0)):
        for process in left:
            with ignore_ended:
                process.send_signal(signal_number)
        deadline = time.monotonic() + seconds
        while (left := living(left)) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not left:
            return len(processes)
    ids = ", ".join(str(process.pid) for process in left)
    raise StackError(f"processes of an earlier run don't stop ({ids}); stop them and start again")


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that have not ended; a zombie has ended."""
    alive: list[psutil.Process] = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}:
                alive.append(process)
    return alive


def working_in(folder: Path, program: str) -> list[psutil.Process]:
    """Return the processes of ``program`` whose working folder is ``folder``.

    Both servers change into their data folder at start, so these are exactly the servers of that data. An id
    in a file would not be as safe: it may belong to another process by now.
    """
    resolved = str(folder.resolve())
    matching: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.cwd() == resolved and Path(process.exe()).name.startswith(program):
                matching.append(process)
    return matching


def started_with(variable: str, value: str) -> list[psutil.Process]:
    """Return the processes with ``variable=value`` in their environment, without this one and its parents."""
    own = psutil.Process()
    excluded = {own.pid, *(parent.pid for parent in own.parents())}
    matching: list[psutil.Process] = []
    for process in psutil.process_iter():
        # The environment of another user's process can't be read, and such a process is not of this stack.
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in excluded and process.environ().get(variable) == value:
                matching.append(process)
    return matching
