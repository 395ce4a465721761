"""The tests' own client sends what HTTPX would, and gives the answers that HTTPX would."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.quick_client import QuickClient

if TYPE_CHECKING:
    from collections.abc import Iterator

OF_THE_CLIENT = {"host", "connection", "user-agent", "accept-encoding"}


class _Mirror(BaseHTTPRequestHandler):
    """Answers with what it was sent."""

    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        """Read a request, whatever its method, and answer it."""
        self.raw_requestline = self.rfile.readline()
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        headers = sorted((k.lower(), v) for k, v in self.headers.items() if k.lower() not in OF_THE_CLIENT)
        told = repr((self.requestline, headers, body)).encode()
        in_chunks = self.command == "PUT"
        length = ("Transfer-Encoding", "chunked") if in_chunks else ("Content-Length", str(len(told)))
        self.send_response(418)
        for name, value in (("ETag", '"1"'), ("Via", "a"), ("Via", "b"), length):
            self.send_header(name, value)
        self.end_headers()
        if in_chunks:
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(told), told))
        elif self.command != "HEAD":
            self.wfile.write(told)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def clients() -> Iterator[tuple[httpx.Client, QuickClient]]:
    """Give both clients of one server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with httpx.Client(base_url=url) as usual, QuickClient(url) as quick:
            yield usual, quick
        server.shutdown()


REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a path": ("GET", "/orders/223", {}),
    "a query": ("GET", "/orders?from=2030-06-01T12:00:00Z&limit=5", {}),
    "a query, encoded": ("GET", "/orders?from=2030-06-01T12%3A00%3A00%2B02%3A00", {}),
    "a query, not encoded": ("GET", "/orders?from=2030-06-01T12:00:00+02:00&calendar=a b|\u00e9", {}),
    "parameters": ("GET", "/orders", {"params": {"from": "2030-06-01T12:00:00+02:00", "limit": 5}}),
    "parameters beside a query": ("GET", "/orders?sort=id", {"params": {"limit": "5"}}),
    "no parameters": ("GET", "/orders?sort=id", {"params": {}}),
    "a parameter twice": ("GET", "/orders", {"params": [("sort", "id"), ("sort", "-id")]}),
    "an odd path": ("GET", "//orders/./a/../b%2fc/", {}),
    "a fragment": ("GET", "/orders#there", {}),
    "the head": ("HEAD", "/orders", {}),
    "JSON": ("POST", "/orders", {"json": {"totalfee": 12.5, "name": "\u00c4"}}),
    "JSON of another type": ("PATCH", "/a", {"json": [1], "headers": {"Content-Type": "application/x+json"}}),
    "text": (
        "PUT",
        "/orders/1",
        {"content": '{"name": "\u00c4"}', "headers": {"Content-Type": "text/plain"}},
    ),
    "bytes": ("POST", "/orders", {"content": b"\xff\x00"}),
    "nothing": ("POST", "/orders", {}),
    "an empty body": ("DELETE", "/orders/1", {"content": b""}),
    "an unknown method": ("BREW", "/pot", {}),
    "headers": ("DELETE", "/orders/1", {"headers": {"If-Match": 'W/"1" , *', "ACCEPT": "text/csv"}}),
    "an empty header": ("GET", "/orders", {"headers": {"If-None-Match": ""}}),
    "a header twice": ("GET", "/orders", {"headers": [("Accept", "a/b"), ("Accept", "c/d")]}),
    "a header in UTF-8": ("GET", "/orders", {"headers": {"X-Request-Id": "\u00c4".encode()}}),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_both_clients_send_the_same_and_give_the_same_answer(
    clients: tuple[httpx.Client, QuickClient], kind: str
) -> None:
    method, url, more = REQUESTS[kind]
    usual, quick = (client.request(method, url, **more) for client in clients)
    assert quick.text == usual.text
    assert (quick.status_code, quick.headers.multi_items()[2:]) == (418, usual.headers.multi_items()[2:])
    assert quick.headers["etag"] == '"1"'


def test_what_is_plain_is_not_left_to_httpx(
    clients: tuple[httpx.Client, QuickClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the quick one would not be quick."""
    monkeypatch.delattr(httpx.Client, "request")
    for kind in ("a path", "a query", "a query, encoded", "the head", "JSON", "text", "bytes", "headers"):
        method, url, more = REQUESTS[kind]
        assert clients[1].request(method, url, **more).status_code == 418


def test_no_answer_is_a_transport_error() -> None:
    with QuickClient("http://127.0.0.1:1") as nobody, pytest.raises(httpx.TransportError):
        nobody.get("/orders")
