"""Dropping connections whose other end takes nothing.

A stream that gives up on a slow reader can't close its connection: what the server still holds for it would
wait there, and count as a connection, for as long as the reader pleases. The kernel can (TCP_USER_TIMEOUT).
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPEN_FILES = Path("/proc/self/fd")


@cache
def drop_connections_that_take_nothing(port: int, seconds: float) -> None:
    """Let the kernel end every connection to a port of ours that takes nothing for so long; once per process.

    Set on the listening socket, from which new connections inherit it, and on those that are there. The
    server gives neither of them away, and makes them after the application has started: so they are looked
    for when the first stream begins. Systems without this option keep such connections.
    """
    if not hasattr(socket, "TCP_USER_TIMEOUT") or not _OPEN_FILES.exists():
        return
    # The listening one first: what it accepts from then on inherits, what it accepted before is found after.
    for wanted in (1, 0):
        for one in _sockets_on(port):
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == wanted:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def _sockets_on(port: int) -> Iterator[socket.socket]:
    for path in list(_OPEN_FILES.iterdir()):
        try:
            # Of a copy, as closing it must not close the server's.
            with socket.socket(fileno=os.dup(int(path.name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockname()[1] == port:
                    yield one
        except OSError:
            continue  # no socket, or closed meanwhile
