"""Endpoints that do whatever an endpoint can do to its caller, each on a real socket on this machine.

``python -m tests.hostile_endpoints`` runs all of them, until its standard input is closed.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from tests.webhook_receiver import CERTIFICATE_WITH_KEY

Behaviour = Callable[[socket.socket, threading.Event], None]
"""What is done with a connection, until the event is set."""


def _send_endlessly(*chunks: bytes, first: bytes = b"") -> Behaviour:
    """Send ``first``, then one of the chunks after the other, as fast as they are read."""
    # In large pieces: the endpoint must not be what limits the rate.
    piece = b"".join(itertools.islice(itertools.cycle(chunks), 65_536 // min(map(len, chunks))))

    def behave(connection: socket.socket, ended: threading.Event) -> None:
        connection.sendall(first)
        while not ended.is_set():
            connection.sendall(piece)

    return behave


def _send_slowly(text: bytes, pause: float = 0.05) -> Behaviour:
    """Send the text one byte at a time, again and again."""

    def behave(connection: socket.socket, ended: threading.Event) -> None:
        for byte in itertools.cycle(text):
            connection.sendall(bytes([byte]))
            if ended.wait(pause):
                return

    return behave


def _send(text: bytes, *, read_first: bool = True, then_wait: bool = False) -> Behaviour:
    """Send the text and close, or keep the connection open."""

    def behave(connection: socket.socket, ended: threading.Event) -> None:
        if read_first:
            connection.recv(65_536)
        connection.sendall(text)
        if then_wait:
            ended.wait()

    return behave


def _say_nothing(_connection: socket.socket, ended: threading.Event) -> None:
    ended.wait()


def _reset(connection: socket.socket, _ended: threading.Event) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _reset_after_reading(connection: socket.socket, ended: threading.Event) -> None:
    connection.recv(65_536)
    _reset(connection, ended)


_ENDLESS_TLS_RECORDS = b"\x16\x03\x03\x40\x00" + b"\x0b\x00\xff\xff" * 4_096

NO_STATUS: dict[str, Behaviour] = {
    "says nothing": _say_nothing,
    "resets at once": _reset,
    "resets after the request": _reset_after_reading,
    "closes after the request": _send(b""),
    "answers something else": _send(b"SSH-2.0-OpenSSH\r\n"),
    "answers with a status that is none": _send(b"HTTP/1.1 999999 no\r\n\r\n"),
    "answers with an older protocol": _send(b"<html>\r\n" * 100),
    "answers with HTTP/2": _send(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18, then_wait=True),
    "sends zero bytes": _send_endlessly(b"\0" * 1_024),
    "drips a status line": _send_slowly(b"HTTP/1.1 200 " + b"O" * 10_000),
    "drips early hints": _send_slowly(b"HTTP/1.1 103 Early Hints\r\n\r\n", pause=0.005),
    "sends early hints without end": _send_endlessly(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    "sends the shortest early hints without end": _send_endlessly(b"HTTP/1.1 103 \r\n\r\n"),
    "sends early hints with bare line feeds": _send_endlessly(b"HTTP/1.1 103 \n\n"),
    "sends mixed informational responses": _send_endlessly(
        b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.0 102 \r\na: b\r\n\r\n", b"HTTP/1.1 199 x\r\n\r\n"
    ),
    "sends a header without end": _send_endlessly(b"a" * 64, first=b"HTTP/1.1 200 OK\r\nx: "),
    "sends headers without end": _send_endlessly(b"x: y\r\n", first=b"HTTP/1.1 200 OK\r\n"),
    "sends folded headers without end": _send_endlessly(b" y\r\n", first=b"HTTP/1.1 200 OK\r\nx: y\r\n"),
    "sends line feeds without end": _send_endlessly(b"\r\n"),
    "sends a status line without end": _send_endlessly(b"O" * 64, first=b"HTTP/1.1 200 "),
    "switches protocols": _send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", then_wait=True),
    "answers without the end of the headers": _send(b"HTTP/1.1 200 OK\r\nx: y\r\n", then_wait=True),
}
"""From these no status ever comes."""

STATUS: dict[str, Behaviour] = {
    "answers before the request": _send(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", read_first=False, then_wait=True
    ),
    "answers and sends on": _send_endlessly(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "sends a body without end": _send_endlessly(b"x" * 64, first=b"HTTP/1.1 200 OK\r\n\r\n"),
    "sends chunks of one byte without end": _send_endlessly(
        b"1\r\nx\r\n", first=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    ),
    "sends a chunk extension without end": _send_endlessly(
        b"x" * 64, first=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"
    ),
    "drips a body": _send_slowly(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 900, 0.005),
    "redirects to itself": _send(b"HTTP/1.1 307 \r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
    "asks to be tried after a thousand digits": _send(
        b"HTTP/1.1 503 \r\nRetry-After: " + b"9" * 9_000 + b"\r\nContent-Length: 0\r\n\r\n"
    ),
    "sends a body that breaks off": _send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx"),
}
"""A status comes from these, and it decides."""

TLS: dict[str, Behaviour] = {
    "says nothing": _say_nothing,
    "resets at once": _reset,
    "answers without TLS": _send(b"HTTP/1.1 200 OK\r\n\r\n", read_first=False),
    "drips a handshake": _send_slowly(b"\x16\x03\x03\x40\x00" + b"\0" * 16_384),
    "sends a handshake without end": _send_endlessly(_ENDLESS_TLS_RECORDS),
    "sends alerts without end": _send_endlessly(b"\x15\x03\x03\x00\x02\x01\x00"),
}
"""Addresses of these begin with ``https:``; no status ever comes."""


@contextmanager
def listening(behaviour: Behaviour, *, tls: bool = False) -> Iterator[int]:
    """Run an endpoint that does this with every connection, perhaps over TLS; yield its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE_WITH_KEY)
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        # The other side closes the connection as soon as it has had enough.
        with connection, suppress(OSError):
            behaviour(context.wrap_socket(connection, server_side=True) if tls else connection, ended)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            # Closing alone would not end the thread that waits in accept().
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)


@contextmanager
def all_in_another_process() -> Iterator[list[str]]:
    """Run all endpoints, without using this process's time; yield their URLs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hostile_endpoints"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()
        finally:
            process.stdin.close()


def _main() -> None:
    with ExitStack() as stack:
        endpoints = [
            *(("http", behaviour) for behaviour in (NO_STATUS | STATUS).values()),
            *(("https", behaviour) for behaviour in TLS.values()),
        ]
        ports = [(scheme, stack.enter_context(listening(behaviour))) for scheme, behaviour in endpoints]
        print(*(f"{scheme}://127.0.0.1:{port}/" for scheme, port in ports), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _main()
