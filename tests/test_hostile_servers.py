"""``oms`` and a server that is not the API, or wants to harm."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.command_steps import command_environment, oms
from tests.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTILE = "\x1b]0;title\x07 \x9b31m \u202egnp\x7f\r\nforged"
WRONG = "the server did not answer as the API does: is --server the API's URL?"
NO_JSON = "the server did not answer with JSON: is --server the API's URL?"


class _Server(ThreadingHTTPServer):
    """Answers every request in the same way."""

    status = 200
    body = b""
    media_type = "application/json"
    daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.server.status)
        self.send_header("Content-Type", self.server.media_type)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_POST = do_GET  # noqa: N815 - the name that http.server calls

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[_Server]:
    """A server that a person took for the API."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def _page(**members: Any) -> bytes:
    change = {"id": "1", "type": "order.created", "subject": "1", "sequence": "1"}
    return json.dumps({"position": 1, "items": [{**change, **members}], "next_cursor": 1}).encode()


@pytest.mark.parametrize(
    ("body", "said"),
    {
        "a list": (b"[]", WRONG),
        "another object": (b"{}", WRONG),
        "other members": (b'{"position": 1, "items": [{"a": 1}], "next_cursor": 1}', WRONG),
        "the same page again and again": (b'{"position": 1, "items": [], "next_cursor": "x"}', WRONG),
        "a position that is none": (_page(sequence="-1x"), WRONG),
        "a latest position that is a text": (b'{"position": "x"}', WRONG),
        "nothing": (b"", NO_JSON),
        "not UTF-8": (b'{"position": 1, "items": [{"a": "\xff"}], "next_cursor": 1}', NO_JSON),
        "too deep": (b"[" * 100_000, NO_JSON),
    }.values(),
)
def test_another_server_is_told_from_the_api(server: _Server, tmp_path: Path, body: bytes, said: str) -> None:
    """Whatever it answers, and without a stack trace."""
    server.body = body
    listen = ("listen", "--forward-to", server.url, "--state-file", str(tmp_path / "state"))
    for command in (("webhook", "list"), ("trigger",), listen):
        done = oms(*command, OMS_SERVER=server.url)
        assert (done.returncode, done.stderr.strip()) in {(1, WRONG), (1, said)}, command


def test_a_refusal_of_any_form_is_shown(server: _Server) -> None:
    """A proxy's errors need not be the API's."""
    server.status = 502
    for errors in (b'["boom"]', b"5", b"[null]", b'{"a": 1}'):
        server.body = b'{"detail": "no upstream", "errors": ' + errors + b"}"
        done = oms("webhook", "list", OMS_SERVER=server.url)
        assert (done.returncode, done.stderr.strip()) == (1, "the API answered 502: no upstream"), errors
    for body in (b'"\xff"', b"[" * 100_000, b"<html>"):
        server.body = body
        done = oms("webhook", "list", OMS_SERVER=server.url)
        assert (done.returncode, done.stderr.strip()) == (1, "the API answered 502"), body


def test_an_export_from_another_server_leaves_the_file(server: _Server, tmp_path: Path) -> None:
    """A page that some proxy answers is no export."""
    server.body, server.media_type = b"<html>Please log in</html>\n", "text/html"
    for name in ("orders.csv", "orders.json", "orders.ndjson"):
        file = tmp_path / name
        file.write_text("of yesterday")
        done = oms("export", str(file), OMS_SERVER=server.url)
        assert (done.returncode, done.stderr.strip()) == (1, WRONG)
        assert file.read_text() == "of yesterday"
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_of_an_answer_acts_on_a_terminal(server: _Server) -> None:
    """As text, in colour too, and as JSON, which is ASCII and reads the same."""
    attempt = {
        "at": "2026-11-22T10:00:00Z",
        "error": HOSTILE,
        "latency_ms": 1,
        "status": 1,
        "answer": HOSTILE,
    }
    delivery = {"id": HOSTILE, "type": HOSTILE, "position": 1, "status": HOSTILE, "attempts": [attempt]}
    server.body = json.dumps({"items": [delivery], "next_cursor": None}, ensure_ascii=False).encode()
    for more in ((), ("--json",)):
        shown = _on_a_terminal("webhook", "attempts", "1", *more, OMS_SERVER=server.url)
        for sequence in (
            "\x1b[33m",
            "\x1b[0m",
            "\r\n",
        ):  # our own colours, and what a terminal's line ends are
            shown = shown.replace(sequence, "")
        assert "gnp" in shown
        assert shown.isprintable(), ascii(shown)
    done = oms("webhook", "attempts", "1", "--json", OMS_SERVER=server.url)
    assert json.loads(done.stdout) == {"deliveries": [delivery]}


def _on_a_terminal(*arguments: str, **settings: str) -> str:
    ours, theirs = pty.openpty()
    try:
        environment = command_environment(TERM="xterm", **settings)
        command = [sys.executable, "-m", "oms", *arguments]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=theirs, stderr=theirs) as process:
            process.wait(30)
        return os.read(ours, 1_000_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
