"""A subscriber's endpoint: a real HTTP server on this machine, which keeps its requests."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from standardwebhooks import Webhook

from tests.local_server import LocalHandler, LocalServer

CERTIFICATE = Path(__file__).parent / "certificates" / "receiver.crt"
"""For receiver.test, localhost and 127.0.0.1; self-signed."""
CERTIFICATE_WITH_KEY = Path(__file__).parent / "certificates" / "receiver.pem"


@dataclass(frozen=True)
class Received:
    """A request as received."""

    at: float
    """Monotonic seconds."""
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def id(self) -> str:
        """The notification's id, which is the same for repeats."""
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        """The notification."""
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def position(self) -> int:
        """The position of the change."""
        return int(self.event["sequence"])

    def is_signed_with(self, secret: str) -> bool:
        """Verify it as a subscriber does, with the library; raises if it is not signed with the secret."""
        Webhook(secret).verify(self.body, dict(self.headers))
        return True


@dataclass(frozen=True)
class Answer:
    """The endpoint's answer."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: float = 0.0
    """Seconds until it answers."""
    pauses: float = 0.0
    """Seconds between the bytes of the body."""


OK = Answer()


class Receiver:
    """An endpoint whose answers a test decides: ``receiver.answer = lambda request: Answer(500)``."""

    def __init__(self, *, tls: bool = False) -> None:
        self.received: list[Received] = []
        self.answer: Callable[[Received], Answer] = lambda _: OK
        self.released = threading.Event()
        receiver = self

        class Handler(LocalHandler):
            def respond(self) -> None:
                body = self.read_body()
                request = Received(time.monotonic(), self.path, self.read_headers(), body)
                receiver.received.append(request)
                try:
                    self._answer(receiver.answer(request))
                except OSError:
                    self.close_connection = True  # the client disconnected

            def _answer(self, answer: Answer) -> None:
                receiver.released.wait(answer.after)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in answer.headers:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                size = 1 if answer.pauses else max(1, len(answer.body))
                for start in range(0, len(answer.body), size):
                    self.wfile.write(answer.body[start : start + size])
                    receiver.released.wait(answer.pauses)

        self._server = LocalServer(Handler)
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(CERTIFICATE_WITH_KEY)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/hook"

    @property
    def positions(self) -> list[int]:
        """The positions of the requests, in their order."""
        return [request.position for request in self.received]

    @property
    def ids(self) -> list[str]:
        """The ids of the requests, in their order."""
        return [request.id for request in self.received]

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.stop()
