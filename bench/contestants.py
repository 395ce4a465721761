"""Who is compared: this service and the peers, each with a database and a server of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.databases import copy, create_ours, create_plain, stored_orders
from bench.goals import BARE, CREATE, DJANGO, EXPRESS, FASTAPI, GET, LIST, OURS, REFUSED, WORKS
from bench.pgbench import CLIENTS
from bench.processes import BenchError, Server
from stack.embedded_valkey import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.databases import StoredOrder
    from stack.embedded_postgres import EmbeddedPostgres

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"
PEERS_PYTHON = ROOT / ".venv-bench" / "bin"
"""Where ``make bench`` installs what the peers are written with."""

PROCESSES = 2
"""Server processes of each."""

_PEER_WORKS = (CREATE, REFUSED, GET, LIST)


@dataclass
class Contestant:
    """One that serves orders over HTTP."""

    name: str
    works: tuple[str, ...]
    database_url: str
    port: int
    server: Server
    orders: list[StoredOrder]
    """The orders in its database at the beginning."""


@dataclass(frozen=True)
class _Peer:
    name: str
    folder: str
    command: Callable[[int], list[str]]
    """From the port that it is to listen on."""


def _in_venv(program: str, *arguments: str) -> list[str]:
    return [
        str(PEERS_PYTHON / program),
        *arguments,
        "app:app" if program != "gunicorn" else "app:application",
    ]


_PEERS = (
    _Peer(
        BARE,
        "bare_asgi",
        lambda port: _in_venv(
            "granian", "--interface", "asgi", "--workers", str(PROCESSES), "--port", str(port), "--no-ws"
        ),
    ),
    _Peer(
        FASTAPI,
        "fastapi_sqlalchemy",
        lambda port: _in_venv(
            "uvicorn",
            "--workers",
            str(PROCESSES),
            "--port",
            str(port),
            "--no-access-log",
            "--log-level=warning",
        ),
    ),
    _Peer(
        DJANGO,
        "django_rest",
        lambda port: _in_venv(
            "gunicorn", "--workers", str(PROCESSES), "--threads", "8", "--bind", f"127.0.0.1:{port}"
        ),
    ),
    _Peer(EXPRESS, "express_sequelize", lambda _: [_node(), "app.js"]),
)


def _node() -> str:
    return shutil.which("node") or ""


def _install_node_modules() -> bool:
    """Install what Express needs, if Node is there; say so if it is not."""
    npm = shutil.which("npm")
    if not _node() or npm is None:
        print(f"SKIPPED: {EXPRESS}, since node and npm are not on this machine", flush=True)
        return False
    folder = PEERS / "express_sequelize"
    if not (folder / "node_modules" / ".package-lock.json").exists():
        subprocess.run([npm, "ci", "--silent"], cwd=folder, check=True)
    return True


def service_environment(database_url: str, redis_url: str, **more: str) -> dict[str, str]:
    """Return the environment of this service's processes: its defaults, and where everything is."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMS_")}
    return {**kept, "OMS_DATABASE_URL": database_url, "OMS_REDIS_URL": redis_url, **more}


def create_databases(postgres: EmbeddedPostgres) -> None:
    """Create ``ours`` and ``plain``, and a copy of each for what pgbench runs."""
    server_url = postgres.url_of("postgres")
    create_ours(server_url, "ours", postgres.url_of("ours"), more_calendars=CLIENTS)
    create_plain(server_url, "plain", postgres.url_of("plain"))
    copy(server_url, "own_statement", "ours")
    copy(server_url, "plain_statement", "plain")


def ours(postgres: EmbeddedPostgres, redis_url: str, folder: Path) -> Contestant:
    """Return this service's API with its default settings and log, on the database ``ours``."""
    url = postgres.url_of("ours")
    port = free_port()
    environment = service_environment(url, redis_url, OMS_PORT=str(port), OMS_API_PROCESSES=str(PROCESSES))
    command = [sys.executable, "-m", "api.server"]
    server = Server(OURS, command, environment, ROOT, folder / "ours.log")
    orders = stored_orders(url, ours=True)
    return Contestant(OURS, WORKS, url, port, server, orders)


def peers_of(
    postgres: EmbeddedPostgres, folder: Path, only: tuple[str, ...] | None = None
) -> list[Contestant]:
    """Return the peers, each on a copy of the database ``plain``.

    Args:
        postgres: the server of all databases.
        folder: for logs.
        only: their names; all that this machine can run, if absent.

    Raises:
        BenchError: what they are written with is not installed.

    """
    if not (PEERS_PYTHON / "granian").exists():
        raise BenchError(f"{PEERS_PYTHON} is missing; `make bench` installs it")
    contestants = []
    for peer in _PEERS:
        if (only is not None and peer.name not in only) or (
            peer.name == EXPRESS and not _install_node_modules()
        ):
            continue
        url = postgres.url_of(peer.folder)
        copy(postgres.url_of("postgres"), peer.folder, "plain")
        port = free_port()
        server = Server(
            peer.name,
            peer.command(port),
            _peer_environment(url, port),
            PEERS / peer.folder,
            folder / f"{peer.folder}.log",
        )
        orders = stored_orders(url, ours=False)
        contestants.append(Contestant(peer.name, _PEER_WORKS, url, port, server, orders))
    return contestants


def _peer_environment(url: str, port: int) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMS_")}
    return {**kept, "DATABASE_URL": url, "PORT": str(port), "NODE_ENV": "production"}
