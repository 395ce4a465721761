"""nginx and haproxy in front of two APIs, with the very files of ``docs/operations/proxies``."""

from __future__ import annotations

import re
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stack.child_processes import start_process, stop_processes
from stack.embedded_valkey import free_port
from tests.debian_programs import require_program
from tests.drivers import wait_until
from tests.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILES = ROOT / "docs" / "operations" / "proxies"

PROXIES = ("nginx", "haproxy")

_FASTER = {
    "keepalive_timeout 3s;": "keepalive_timeout 250ms;",
    "inter 1s": "inter 200ms",
    "delay 2s": "delay 500ms",
}
"""For APIs that drain for a second, and not for five."""

_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/in_http.conf;
}}
"""
"""What a distribution's nginx.conf says around it."""


def _configuration(file: str, ports: list[int], port: int) -> str:
    """Return a file of the guide with these ports in place of its own."""
    text = (FILES / file).read_text()
    for written, used in zip(("8001", "8002", "8080"), (*ports, port), strict=True):
        text, count = re.subn(rf"127\.0\.0\.1:{written}\b", f"127.0.0.1:{used}", text)
        assert count == 1
    for slow, fast in _FASTER.items():
        text = text.replace(slow, fast)
    return text


def _command(program: str, ports: list[int], port: int, folder: Path) -> list[str]:
    if program == "haproxy":
        haproxy = require_program("haproxy", "haproxy", "what is behind it is")
        (folder / "haproxy.cfg").write_text(_configuration("haproxy.cfg", ports, port))
        return [haproxy, "-db", "-f", str(folder / "haproxy.cfg")]
    return nginx_command(_configuration("nginx.conf", ports, port), folder)


def nginx_command(in_http: str, folder: Path) -> list[str]:
    """Return the command that runs nginx. The test is skipped if it is missing.

    Args:
        in_http: its configuration, as it stands in the ``http`` block.
        folder: for this and all files of its own.

    """
    nginx = require_program("nginx", "nginx-light", "what is behind it is")
    (folder / "in_http.conf").write_text(in_http)
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder))
    return [nginx, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


@contextmanager
def proxy(program: str, ports: list[int], folder: Path) -> Iterator[int]:
    """Run nginx or haproxy in front of two ports; yield the port to connect to. Skipped if it is missing."""
    port = free_port()
    with (folder / "output").open("wb") as output:
        process = start_process(_command(program, ports, port, folder), output=output)
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), f"{program} listens")
        assert process.poll() is None, (folder / "output").read_text()
        yield port
    finally:
        stop_processes(process, grace=5)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def behind_nginx(ports: list[int], folder: Path) -> Iterator[Callable[[], int]]:
    """Run nginx; yield a function that returns the port to connect to."""
    with proxy("nginx", ports, folder) as port:
        yield lambda: port


@contextmanager
def behind_haproxy(ports: list[int], folder: Path) -> Iterator[Callable[[], int]]:
    """Run haproxy; yield a function that returns the port to connect to."""
    with proxy("haproxy", ports, folder) as port:
        yield lambda: port
