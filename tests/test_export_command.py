"""``oms export``: a whole file or none, which an import reads."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.builders import later
from tests.command_steps import command_environment, oms, oms_json
from tests.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Api, Database


def test_an_export_has_the_same_bytes_as_the_apis_and_comes_back_in(
    api: Api, database: Database, tmp_path: Path, postgres_url: str
) -> None:
    """In each format, also as an array for those who want one document."""
    for day in range(3):
        api.placed_order(at=later(days=day), metadata={"note": 'two\nlines, and a "quote"'})
    server = {"OMS_SERVER": str(api.client.base_url)}
    texts = {}
    for name in ("csv", "ndjson", "json"):
        file = tmp_path / f"orders.{name}"
        assert oms_json("export", str(file), **server) == {"file": str(file), "format": name, "orders": 3}
        texts[name] = file.read_bytes()
    for name in ("csv", "ndjson"):
        assert texts[name] == api.client.get("/orders/export", params={"format": name}).content
    lines = texts["ndjson"].splitlines()
    assert json.loads(texts["json"]) == [json.loads(line) for line in lines]
    assert [line.rstrip(b",") for line in texts["json"].splitlines()[1:-1]] == lines
    some = oms("export", "-", "--format", "ndjson", "--from", "2030-06-03T00:00:00Z", **server)
    assert some.stdout.encode() == lines[2] + b"\n"
    none = oms("export", "-", "--format", "json", "--calendar", "unused", **server)
    assert json.loads(none.stdout) == []
    for name in ("csv", "json"):
        database.clean()
        database.add_services()
        done = oms("import", str(tmp_path / f"orders.{name}"), OMS_DATABASE_URL=postgres_url)
        assert done.stdout.startswith("imported 3 orders"), done.stderr
        assert api.client.get("/orders/export", params={"format": "ndjson"}).content == texts["ndjson"]


def test_what_the_api_refuses_is_said_and_an_old_file_stays(api: Api, tmp_path: Path) -> None:
    """The API names the fault."""
    file = tmp_path / "orders.csv"
    file.write_text("of yesterday")
    done = oms("export", str(file), "--status", "lost", OMS_SERVER=str(api.client.base_url))
    assert done.returncode == 1
    assert "the API answered 400" in done.stderr
    assert file.read_text() == "of yesterday"


def test_an_export_replaces_files_only(api: Api, tmp_path: Path) -> None:
    """A folder or a device is refused; a link stays, and what it leads to is replaced."""
    server = {"OMS_SERVER": str(api.client.base_url)}
    link = tmp_path / "orders.csv"
    link.symlink_to(tmp_path / "real.csv")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("pipe", "pipe.csv"):
        done = oms("export", str(tmp_path / name), "--format", "csv", **server)
        assert (done.returncode, "is not a file; - writes to standard output" in done.stderr) == (2, True)
    assert oms("export", str(link), **server).returncode == 0
    assert link.is_symlink()
    assert (tmp_path / "real.csv").read_text().startswith('"id"')


@pytest.mark.parametrize("sent", [b'7\r\n"id"\r\n1\r\n', b""])
def test_an_export_that_breaks_off_leaves_no_file_and_an_old_one_as_it_was(
    tmp_path: Path, sent: bytes
) -> None:
    """The response ends without its final chunk."""
    file, old = tmp_path / "orders.csv", tmp_path / "old.csv"
    old.write_text("of yesterday")

    def answer(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _address = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\n" + sent
                )

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        answered = threads.submit(answer, listener)
        for name in (file, old):
            done = oms("export", str(name), "--server", f"http://127.0.0.1:{listener.getsockname()[1]}")
            assert (done.returncode, done.stdout) == (1, "")
            assert "broke off" in done.stderr
        answered.result()
    assert [path.name for path in tmp_path.iterdir()] == ["old.csv"]
    assert old.read_text() == "of yesterday"


def test_an_export_into_a_closed_pipe_ends_quietly(api: Api) -> None:
    """As ``oms export - --format csv | head -1`` does."""
    for day in range(3):
        api.placed_order(at=later(days=day))
    command = f"{sys.executable} -m oms export - --format csv | true"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        env=command_environment(OMS_SERVER=str(api.client.base_url)),
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert done.stderr == b""
