"""The endpoint of a process that serves nothing else: ``/metrics`` on ``OMS_METRICS_PORT``.

It has a thread of its own, so it answers while the process waits for something. And it can't stop the process
from working: few connections at once, few seconds for each, and what is shown is computed once a second.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any

import structlog

from shared.api_access import resolve
from shared.metrics.declared import make_metrics
from shared.settings import SettingsError, settings

log = structlog.get_logger("metrics")

MOST_CONNECTIONS = 8
CONNECTION_SECONDS = 5.0
"""How long a connection may last; then it is closed."""

RENDERING_SECONDS = 1.0
"""How long an answer is repeated before it is computed anew."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Cached:
    """The answer, computed by one thread at a time, and not more often than once a second."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._lock = threading.Lock()
        self._text = b""
        self._rendered_at = float("-inf")

    def read(self) -> bytes:
        with self._lock:
            if time.monotonic() - self._rendered_at >= RENDERING_SECONDS:
                self._text = self._render()
                self._rendered_at = time.monotonic()
            return self._text


class _Handler(BaseHTTPRequestHandler):
    """Answers one request, and closes the connection."""

    server: _Server
    timeout = CONNECTION_SECONDS

    def do_GET(self) -> None:
        """Answer with the metrics."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        text = self.server.answer.read()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def version_string(self) -> str:
        """Return the header Server; http.server's own names Python's version."""
        return "metrics"

    def log_message(self, *_: Any) -> None:
        """Log no request: a scraper sends one every few seconds."""


class _Server(ThreadingMixIn, HTTPServer):
    daemon_threads = True

    def __init__(self, address: str, port: int, render: Callable[[], bytes]) -> None:
        self.answer = _Cached(render)
        self._open: dict[socket.socket, float] = {}
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        """Bind, without looking up the host's name as HTTPServer does: that may take long."""
        super(HTTPServer, self).server_bind()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def verify_request(self, request: Any, client_address: object) -> bool:  # noqa: ARG002 - as it is called
        """Return whether there is a place for another connection; otherwise it is closed."""
        if len(self._open) >= MOST_CONNECTIONS:
            return False
        self._open[request] = time.monotonic()
        return True

    def service_actions(self) -> None:
        """Close connections that last too long; called twice a second."""
        limit = time.monotonic() - CONNECTION_SECONDS
        for connection, since in list(self._open.items()):
            if since < limit:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # it ends at this moment
                    continue

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, and free its place."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as it is called
        """Log what is no fault of the client, or of the network."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            log.error("metrics_failed", exc_info=error)

    def close_in_child(self) -> None:
        """In a forked child, close what the parent serves on: the child would keep it open."""
        self.socket.close()
        for connection in list(self._open):
            connection.close()


def serve_metrics() -> None:
    """Make the metrics that this process has declared and serve them, if ``OMS_METRICS_PORT`` is set.

    Raises:
        SettingsError: it can't listen there.

    """
    port = settings().metrics_port
    if not port:
        return
    from prometheus_client import CollectorRegistry, generate_latest

    from shared.metrics.registry import Build, render_process_metrics

    make_metrics()
    about = CollectorRegistry()
    about.register(Build())
    addresses = resolve(settings().metrics_host)
    if not addresses:
        raise SettingsError("OMS_METRICS_HOST: has no address; use one, such as 127.0.0.1")
    try:
        server = _Server(str(addresses[0]), port, lambda: render_process_metrics() + generate_latest(about))
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(
            f"OMS_METRICS_PORT: can't listen on {addresses[0]}, port {port}: {reason}; "
            "give the relay and the worker of one host a port of their own each"
        ) from None
    os.register_at_fork(after_in_child=server.close_in_child)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    log.info("serving_metrics", host=str(addresses[0]), port=port)
