"""``make run``: the whole system on this machine, stopped as one.

Reads PORT (8000; 0 picks a free one), STATE_DIR (.local), SAMPLE_DATA (whether sample orders come into a
new database: yes, or no where OMS_DATABASE_URL is set) and the services' own OMS_ variables. Exit status: 0
told to stop, 1 something failed, 2 refused to start.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from stack.child_processes import (
    StackError,
    die_with_parent,
    start_process,
    started_with,
    stop_leftovers,
    stop_processes,
)
from stack.embedded_postgres import EmbeddedPostgres
from stack.embedded_valkey import EmbeddedValkey, free_port
from stack.process_output import ProcessOutput
from stack.state_folder import DEFAULT_FOLDER, StateFolder

PROCESSES = {"api": "api.server", "relay": "api.relay.main", "worker": "worker.main"}
_STOPPED_TOGETHER = ((("api", "relay"), 2.5), (("worker",), 3.0))
"""Whoever gives work stops before whoever does it. Seconds of grace; with those of the servers, 1 and 2,
everything has ended within 10 s, however stubborn."""
_NAMES = [*PROCESSES, "migrate", "import", "stack"]
_READY_SECONDS = 60.0
_PORT_FREED_SECONDS = 1.0
"""A killed run's API loses its environment, by which we know it, a moment before its socket."""
_MOST_ENDS = 5
_ENDS_COUNT_SECONDS = 60.0
"""A server may be killed at any moment, but one that ends more often than this doesn't work."""
_MARK = "ORDER_STACK"
"""Set to STATE_DIR in every process we start, and in theirs: how a later run knows what was ours."""
_SAMPLE_ORDER = "/orders/223"


class _RefusalError(Exception):
    """Nothing was started; the text says why and what to do."""


class _ToldToStopError(Exception):
    """Not an error: a signal came, or whoever read our output is gone."""


@dataclass(frozen=True)
class Plan:
    """What the environment asks for."""

    host: str
    port: int
    state: Path
    database_url: str
    redis_url: str
    sample_data: bool

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Plan:
        """Check the environment; an empty variable counts as absent, as make passes it.

        Raises:
            _RefusalError: a value can't be used.

        """
        given = {name: value for name, value in environment.items() if value}
        port = given.get("PORT") or given.get("OMS_PORT") or "8000"
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):  # the last port
            raise _RefusalError(f"PORT is {port!r}; it must be a number up to 65535, or 0 for any free port")
        # A database of somebody's own gets sample orders only when asked for.
        sample_data = given.get("SAMPLE_DATA", "no" if "OMS_DATABASE_URL" in given else "yes")
        if sample_data not in {"yes", "no"}:
            raise _RefusalError(f"SAMPLE_DATA is {sample_data!r}; it must be yes or no")
        return cls(
            host=given.get("OMS_HOST", "127.0.0.1"),
            port=int(port),
            state=Path(given.get("STATE_DIR", DEFAULT_FOLDER)),
            database_url=given.get("OMS_DATABASE_URL", ""),
            redis_url=given.get("OMS_REDIS_URL", ""),
            sample_data=sample_data == "yes",
        )


class Stack:
    """Every process of one run, from the first server to the last line."""

    def __init__(self, plan: Plan, state: StateFolder) -> None:
        self._plan = plan
        self._state = state
        self._output = ProcessOutput(_NAMES)
        self._postgres = None if plan.database_url else EmbeddedPostgres(state.path / "postgres")
        self._valkey = None if plan.redis_url else EmbeddedValkey(state.path / "valkey")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ends: dict[str, list[float]] = {"PostgreSQL": [], "Valkey": []}
        self._told_to_stop = False

    def run(self) -> int:
        """Start everything, watch over it until told to stop, stop everything. Return the exit status."""
        try:
            environment = self._start_servers()
            self._finish("migrate", [sys.executable, "-m", "shared.database.migrate"], environment)
            if self._plan.sample_data:
                files = ("sample-data/orders.json", "--services", "sample-data/services.json")
                command = [sys.executable, "-m", "api.orders.import_command", *files, "--only-if-empty"]
                self._finish("import", command, environment)
            self._state.publish(
                {name: value for name, value in environment.items() if name.startswith("OMS_")}
            )
            for name, module in PROCESSES.items():
                self._processes[name] = self._start(name, [sys.executable, "-m", module], environment)
            self._wait_until_ready()
            while True:
                self._go_on()
        except _ToldToStopError:
            self._output.say("stack", "stopping")
            return 0
        except StackError as error:
            self._output.say("stack", f"{error}; stopping")
            return 1
        finally:
            self._stop()

    def tell_to_stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler
        """Stop at the next look. Told again while stopping, it changes nothing: the end is near already."""
        self._told_to_stop = True

    def _start_servers(self) -> dict[str, str]:
        """Start the servers that were not given, and return the environment of everything that follows."""
        urls = {"OMS_DATABASE_URL": self._plan.database_url, "OMS_REDIS_URL": self._plan.redis_url}
        if self._postgres:
            self._postgres.start(self._look_up)
            urls["OMS_DATABASE_URL"] = self._postgres.url
            self._output.say("stack", f"PostgreSQL runs; its log is {self._postgres.log}")
            if self._postgres.home.parent != self._state.path:
                self._output.say(
                    "stack",
                    f"its data lie in {self._postgres.home}, as its user may not enter {self._state.path}; "
                    "remove both to delete them",
                )
        if self._valkey:
            self._valkey.start(self._look_up)
            urls["OMS_REDIS_URL"] = self._valkey.url
            self._output.say("stack", f"Valkey runs; its log is {self._valkey.log}")
        address = {"OMS_HOST": self._plan.host, "OMS_PORT": str(self._plan.port)}
        return os.environ | urls | address | {_MARK: str(self._state.path), "PYTHONUNBUFFERED": "1"}

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        process = start_process(command, output=subprocess.PIPE, env=environment)
        self._output.follow(name, process)
        return process

    def _finish(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        """Run one command to its end."""
        process = self._start(name, command, environment)
        try:
            while process.poll() is None:
                self._go_on()
        finally:
            stop_processes(process, grace=2.0, meanwhile=self._output.pump)
            self._output.drain()
        if process.returncode:
            raise StackError(f"{name} failed ({_ended(process.returncode)})")

    def _look_up(self, seconds: float = 0.02) -> None:
        """Pass on what was said, and stop if told to; called also while a server takes its time to start."""
        self._output.pump(seconds)
        if self._told_to_stop or self._output.deaf:
            raise _ToldToStopError

    def _go_on(self) -> None:
        """Pass on what was said, and notice what happened meanwhile."""
        self._look_up(0.1)
        for name, server in (("PostgreSQL", self._postgres), ("Valkey", self._valkey)):
            if server and server.process and server.process.poll() is not None:
                self._start_again(name, server, _ended(server.process.returncode))
        for name, process in self._processes.items():
            if process.poll() is not None:
                self._output.drain()  # its last words come first
                raise StackError(f"{name} ended unexpectedly ({_ended(process.returncode)})")

    def _start_again(self, name: str, server: EmbeddedPostgres | EmbeddedValkey, how: str) -> None:
        """Start a server that ended: PostgreSQL recovers all that was promised, and Valkey holds none of it.

        Raises:
            StackError: it ends again and again, or doesn't start.

        """
        now = time.monotonic()
        self._ends[name] = [at for at in self._ends[name] if now - at < _ENDS_COUNT_SECONDS] + [now]
        if len(self._ends[name]) > _MOST_ENDS:
            raise StackError(
                f"{name} ended {len(self._ends[name])} times within a minute, at last {how}; "
                f"its log is {server.log}"
            )
        self._output.say("stack", f"{name} ended unexpectedly ({how}); starting it again")
        server.start(self._look_up)
        self._output.say("stack", f"{name} runs again")

    def _wait_until_ready(self) -> None:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._plan.host, self._plan.host)  # noqa: S104 - no bind
        deadline = time.monotonic() + _READY_SECONDS
        while not _answers_ok(host, self._plan.port, "/health/ready"):
            self._go_on()
            if time.monotonic() > deadline:
                raise StackError(f"the API is not ready after {_READY_SECONDS:.0f} s")
        address = f"http://{f'[{host}]' if ':' in host else host}:{self._plan.port}"
        # What to try must work: the sample order may be gone or never have come, and orders may need a key.
        tries = (path for path in (_SAMPLE_ORDER, "/orders") if _answers_ok(host, self._plan.port, path))
        path = next(tries, "/health/ready")
        # The API logs a request after it has answered it, and the ready line is to be the last.
        self._output.drain(0.1)
        self._output.say("stack", f"ready on {address}  (Ctrl-C stops)  try: curl -s {address}{path}")

    def _stop(self) -> None:
        self._state.stopping()
        try:
            for names, grace in _STOPPED_TOGETHER:
                together = [self._processes[name] for name in names if name in self._processes]
                stop_processes(*together, grace=grace, meanwhile=self._output.pump)
            # Whatever left its process group.
            stop_leftovers(started_with(_MARK, str(self._state.path)), grace=0.2)
            self._output.drain()
        finally:
            self._stop_servers()
        self._output.say("stack", "everything has stopped")

    def _stop_servers(self) -> None:
        if self._valkey:
            self._valkey.stop(grace=1.0)
        if self._postgres:
            self._postgres.stop(grace=2.0)


def _answers_ok(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _ended(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _check_port(host: str, port: int) -> None:
    """Refuse a port that is taken: the API's own bind would share it with another instance, silently."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + _PORT_FREED_SECONDS
    while True:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one just closed is free
            try:
                probe.bind((host, port))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise _RefusalError(
                        f"{host}:{port} can't be used ({os.strerror(error.errno or 0)}); "
                        "choose another port: make run PORT=8001 (0 picks a free one)"
                    ) from None
            else:
                return
        time.sleep(0.1)


def main(arguments: list[str]) -> int:
    """Run the stack. With ``--stop-with-parent``, also stop when the process that started us ends."""
    try:
        plan = Plan.read(os.environ)
        state = StateFolder(plan.state)
        state.take()
        # We are the only run here, so what still carries our mark is what a killed run left.
        stop_leftovers(started_with(_MARK, str(state.path)), grace=3.0)
        port = plan.port or free_port(plan.host)
        _check_port(plan.host, port)
        plan = Plan(**{**plan.__dict__, "port": port})
    except (_RefusalError, StackError) as refusal:
        print(f"make run: {refusal}", file=sys.stderr)
        return 2
    stack = Stack(plan, state)
    # A terminal that closes stops it too, unless nohup asked to survive that.
    hang_up = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    for number in (signal.SIGINT, signal.SIGTERM, *hang_up):
        signal.signal(number, stack.tell_to_stop)
    if "--stop-with-parent" in arguments:
        # `kill -9` of make would otherwise leave us behind, holding port and folder.
        die_with_parent(os.getppid(), signal.SIGTERM)
    return stack.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
