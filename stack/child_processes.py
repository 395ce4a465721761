"""Start processes that die with us, stop them for certain, and find those that an earlier run left behind."""

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
# Loaded before any fork: between fork and exec no library may be loaded.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class StackError(Exception):
    """The local stack can't go on; the text says why and what to do, in one line."""


def die_with_parent(parent: int, with_signal: signal.Signals) -> None:
    """Have the kernel send this process ``with_signal`` when the thread that started it ends.

    Linux only; elsewhere it does nothing, and the next start finds what was left behind. The kernel looks
    at the *thread*: start long-lived processes from the main one.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0)
    # The parent may have died between the fork and the line above; nobody would tell us any more.
    if os.getppid() != parent:
        os.kill(os.getpid(), with_signal)


def start_process(
    command: Sequence[str],
    *,
    output: int | IO[bytes],
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    on_our_death: signal.Signals = signal.SIGTERM,
    owner: pwd.struct_passwd | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that a terminal's Ctrl-C reaches only us.

    Args:
        command: program and arguments.
        output: where both of its output streams go.
        env: its whole environment; ours if absent.
        stdin: what it reads.
        on_our_death: the signal it gets if we are killed (Linux).
        owner: the user to run as, in that user's main group only; needs root.
        cwd: its working folder; ours if absent.

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
        # Runs after the change of user, which would clear the death signal again.
        preexec_fn=lambda: die_with_parent(parent, on_our_death),  # noqa: PLW1509 - only system calls
    )


def stop_processes(
    *processes: subprocess.Popen[bytes],
    grace: float,
    with_signal: signal.Signals = signal.SIGTERM,
    meanwhile: Callable[[], object] = lambda: time.sleep(0.02),
) -> bool:
    """Stop processes side by side, and whatever is left of their groups. Tell whether all went by themselves.

    Args:
        processes: made by `start_process`; one that has ended already is fine.
        grace: seconds to end after ``with_signal``; then their groups are killed.
        with_signal: the polite request.
        meanwhile: called again and again while waiting, e.g. to empty the processes' output pipes, which
            they could otherwise block on.

    """
    for process in processes:
        if process.poll() is None:
            process.send_signal(with_signal)
    deadline = time.monotonic() + grace
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        meanwhile()
    by_themselves = all(process.poll() is not None for process in processes)
    for process in processes:
        # Forked children can outlive their leader (a Celery pool whose main process died). The group's
        # number can't have been given to anybody else while one of them lives, and if none does it was
        # ours a moment ago: process numbers come round only after tens of thousands of others.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return by_themselves


def stop_leftovers(
    leftovers: Iterable[psutil.Process],
    *,
    grace: float,
    with_signal: signal.Signals = signal.SIGTERM,
    last_resort: signal.Signals = signal.SIGKILL,
) -> int:
    """Stop processes of an earlier run and count them. psutil checks that a number was not given to another.

    Not by psutil's `wait_procs`: it waits for zombies too, which some container's init never takes away.

    Raises:
        StackError: one of them can't be stopped.

    """
    found = list(leftovers)
    gone_meanwhile = contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied)
    left = found
    for request, seconds in ((with_signal, grace), (last_resort, 5.0)):
        for process in left:
            with gone_meanwhile:
                process.send_signal(request)
        deadline = time.monotonic() + seconds
        while (left := living(left)) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not left:
            return len(found)
    numbers = ", ".join(str(process.pid) for process in left)
    raise StackError(f"processes of an earlier run don't stop ({numbers}); stop them and start again")


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Leave out those that have ended, also if their parent has not taken notice yet (zombies)."""
    found: list[psutil.Process] = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}:
                found.append(process)
    return found


def working_in(folder: Path, program: str) -> list[psutil.Process]:
    """Find the processes of ``program`` whose working folder is ``folder``.

    Both servers change into their data folder at start, so this names exactly those of our own data,
    whoever got their process numbers since they were written down somewhere.
    """
    there = str(folder.resolve())
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.cwd() == there and Path(process.exe()).name.startswith(program):
                found.append(process)
    return found


def started_with(variable: str, value: str) -> list[psutil.Process]:
    """Find the processes with ``variable=value`` in their environment, ourselves and our parents aside."""
    own = psutil.Process()
    kin = {own.pid, *(parent.pid for parent in own.parents())}
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        # Another user's environment can't be read, and such a process is none of ours.
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in kin and process.environ().get(variable) == value:
                found.append(process)
    return found
