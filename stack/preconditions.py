"""What the machine must provide before anything is started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from stack.child_processes import StackError
from stack.plan import Plan

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - not a temporary file: the system's shared memory
_PORT_FREED_SECONDS = 1.0
"""How long to wait for the port of a killed run's API. When a process ends, the kernel frees its
environment, by which it is recognized, a moment before it closes its socket."""


def check_folders(environment: Mapping[str, str]) -> None:
    """Refuse folders that can't be written: the processes would fail later, each in its own words.

    Raises:
        StackError: the temporary folder or the shared memory can't be written.

    """
    # Python itself would go on to another folder, PostgreSQL and others would not.
    folder = Path(environment.get("TMPDIR") or "/tmp")  # noqa: S108 - what everything started here uses
    if reason := _why_unwritable(folder):
        raise StackError(
            f"the temporary folder {folder} can't be written ({reason}); choose another: TMPDIR=… make run"
        )
    # Semaphores of the worker's processes, and PostgreSQL's shared memory.
    if sys.platform == "linux" and (reason := _why_unwritable(_SHARED_MEMORY)):
        raise StackError(
            f"the shared memory {_SHARED_MEMORY} can't be written ({reason}); "
            f"the worker and PostgreSQL need it: mount -t tmpfs tmpfs {_SHARED_MEMORY}"
        )


def _why_unwritable(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def check_settings(plan: Plan) -> None:
    """Refuse what a process would refuse, before a server is started: none of their code is imported here.

    Raises:
        StackError: a setting is wrong.

    """
    addresses = {
        # A server that is started here gets its URL later.
        "OMS_DATABASE_URL": plan.database_url or "postgresql://localhost",
        "OMS_REDIS_URL": plan.redis_url or "redis://localhost",
        "OMS_HOST": plan.host,
        "OMS_PORT": str(plan.port or 1),
    }
    if os.environ.get("OMS_LOG_FORMAT") == "json":
        addresses["OMS_LOG_FORMAT"] = "text"  # the reason becomes part of a line
    check = [sys.executable, "-m", "shared.settings"]
    done = subprocess.run(check, env=os.environ | addresses, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(done.stderr.strip())


def check_port(host: str, port: int) -> None:
    """Refuse a port that is in use: the API would share it with another instance, silently.

    Raises:
        StackError: the port can't be bound.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + _PORT_FREED_SECONDS
    while True:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just closed is free
            try:
                probe.bind((host, port))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise StackError(
                        f"{host}:{port} can't be used ({os.strerror(error.errno or 0)}); "
                        "choose another port: make run PORT=8001 (0 picks a free one)"
                    ) from None
            else:
                return
        time.sleep(0.1)
