"""nginx and haproxy in front of two APIs, with the very files of ``docs/operations/proxies``."""

from __future__ import annotations

import re
import shutil
import socket
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from stack.child_processes import start_process, stop_processes
from stack.embedded_valkey import free_port
from tests.drivers import wait_until
from tests.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILES = ROOT / "docs" / "operations" / "proxies"

PROXIES = ("nginx", "haproxy")

_FASTER = {
    "keepalive_timeout 3s;": "keepalive_timeout 500ms;",
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
    include {folder}/oms.conf;
}}
"""
"""What a distribution's nginx.conf says around it."""


def _installed(program: str) -> str:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if path is None:
        warnings.warn(f"no {program} here (Debian: {program}): NOT TESTED behind it", stacklevel=1)
        pytest.skip(f"no {program} here")
    return path


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
    installed = _installed(program)
    if program == "haproxy":
        (folder / "haproxy.cfg").write_text(_configuration("haproxy.cfg", ports, port))
        return [installed, "-db", "-f", str(folder / "haproxy.cfg")]
    (folder / "oms.conf").write_text(_configuration("nginx.conf", ports, port))
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder))
    return [installed, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


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
