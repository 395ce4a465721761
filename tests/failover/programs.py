"""The programs of others that a cluster needs: where they are, and what to do where they are not."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from tests.debian_programs import find_program
from tests.processes import ROOT

PATRONI = ROOT / ".venv-failover" / "bin" / "python"
"""Of an environment of its own, which ``make failover`` makes from ``tests/failover/patroni/``."""

_NEEDED = {
    "etcd": "Debian: apt install etcd-server",
    "haproxy": "Debian: apt install haproxy",
    "ip": "Debian: apt install iproute2",
    "nsenter": "Debian: apt install util-linux",
    "setpriv": "Debian: apt install util-linux",
}
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


def program(name: str) -> str:
    """Return the path of a program, also of one in a folder for the administrator's programs.

    Raises:
        FileNotFoundError: it is not installed.

    """
    path = find_program(name)
    if path is None:
        raise FileNotFoundError(name)
    return path


def missing() -> list[str]:
    """List what a cluster needs and this machine lacks; each item says how to get it."""
    lacking = []
    for name, advice in _NEEDED.items():
        try:
            program(name)
        except FileNotFoundError:
            lacking.append(f"{name} is not installed ({advice})")
    if not PATRONI.exists():
        lacking.append(
            f"Patroni is not installed in {PATRONI.parent.parent.name} (make failover installs it)"
        )
    if os.geteuid() != 0 or not Path("/proc/self/ns/net").exists():
        lacking.append("network namespaces need root on Linux (partitions cut the network of a node)")
    return lacking


def enter_network_of_its_own() -> None:
    """Give this process, and those that it starts, a network without any other process.

    Whatever is done to it disappears with its last process. Call it before any thread is started.

    Raises:
        PermissionError: the kernel or the container does not allow it.

    """
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK) != 0:
        raise PermissionError(ctypes.get_errno(), "no network namespace can be made here")
