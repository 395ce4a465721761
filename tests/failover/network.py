"""A network of this run's own: a bridge, and a namespace for each node, which can be cut off."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from stack.child_processes import start_process
from tests.failover.programs import program

if TYPE_CHECKING:
    from collections.abc import Sequence

BRIDGE = "bridge"
HERE = "10.213.7.1"
"""The address of everything that is on no node: etcd, haproxy, and the service's own processes."""


def _ip(*words: str) -> None:
    subprocess.run([program("ip"), *words], check=True, capture_output=True, text=True, timeout=10)


def make_bridge() -> None:
    """Begin with loopback and a bridge; this process is in a network of its own."""
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
    _ip("addr", "add", f"{HERE}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


class Host:
    """A network namespace with one address, connected to the bridge by a cable that can be pulled."""

    def __init__(self, number: int) -> None:
        self.address = f"10.213.7.{10 + number}"
        self._cable = f"cable{number}"
        # A namespace lives as long as a process in it; this one does nothing else.
        self._holder = start_process(
            [program("unshare"), "--net", program("sleep"), "infinity"],
            output=subprocess.DEVNULL,
            death_signal=signal.SIGKILL,
        )
        self._wait_for_namespace()
        _ip(
            "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", str(self._holder.pid)
        )
        _ip("link", "set", self._cable, "master", BRIDGE, "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            subprocess.run(
                [*self.enter(), program("ip"), *words], check=True, capture_output=True, timeout=10
            )

    def _wait_for_namespace(self) -> None:
        # Compare until ``unshare`` has moved the holder out of our own namespace.
        own = Path("/proc/self/ns/net").readlink()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{self._holder.pid}/ns/net").readlink() == own:
            if time.monotonic() > deadline:
                raise TimeoutError("no network namespace within 10 s")
            time.sleep(0.01)

    def enter(self) -> Sequence[str]:
        """Return the beginning of a command line that runs in this namespace."""
        return (program("nsenter"), f"--net=/proc/{self._holder.pid}/ns/net", "--")

    def cut(self) -> None:
        """Let no packet through, either way; nobody is told."""
        _ip("link", "set", self._cable, "nomaster")

    def mend(self) -> None:
        """Let packets through again."""
        _ip("link", "set", self._cable, "master", BRIDGE)

    def close(self) -> None:
        """End the namespace, when nothing else runs in it."""
        self._holder.kill()
        self._holder.wait()
