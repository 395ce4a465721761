"""A real HTTP server on this machine, for tests that decide what it answers."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class LocalHandler(BaseHTTPRequestHandler):
    """Answers requests on connections that stay open."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Respond to a GET."""
        self.respond()

    def do_POST(self) -> None:
        """Respond to a POST."""
        self.respond()

    def respond(self) -> None:
        """Answer the request; a test says how."""
        raise NotImplementedError

    def read_headers(self) -> Mapping[str, str]:
        """Return the request's headers, with names in lower case."""
        return {name.lower(): value for name, value in self.headers.items()}

    def read_body(self) -> bytes:
        """Read the request's body."""
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def answer_with(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class LocalServer(ThreadingHTTPServer):
    """Serves in a thread, from ``start`` to ``stop``."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: type[LocalHandler], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Print nothing: clients that fail, or end without an answer, are part of tests."""
