"""``make run``: start every process of the system on this machine, supervise them, and stop them together.

Reads PORT (8000; 0 picks a free one), STATE_DIR (.local), SAMPLE_DATA (whether a new database gets the sample
orders: yes, or no if OMS_DATABASE_URL is set) and the processes' own OMS_ variables. Exit status: 0 stopped
on request, 1 failed, 2 refused to start.
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
"""Which processes stop together, in order, and their grace in seconds: what publishes tasks stops before
what runs them. With the servers' own grace, 1 s and 2 s, everything ends within 10 s."""
_NAMES = [*PROCESSES, "migrate", "import", "stack"]
_READY_SECONDS = 60.0
_PORT_FREED_SECONDS = 1.0
"""How long to wait for the port of a killed run's API. When a process ends, the kernel frees its
environment, by which it is recognized, a moment before it closes its socket."""
_MOST_RESTARTS = 5
_RESTART_WINDOW_SECONDS = 60.0
"""A server that ends more often than this is not restarted."""
_STACK_VARIABLE = "ORDER_STACK"
"""Set to STATE_DIR for every process started here, and its children, so that a later run can find them."""
_SAMPLE_ORDER = "/orders/223"


class _RefusalError(Exception):
    """Nothing was started; the text says why and what to do."""


class _StopRequestedError(Exception):
    """Not an error: a signal was received, or the pipe behind standard output was closed."""


@dataclass(frozen=True)
class Plan:
    """What to run, as read from the environment."""

    host: str
    port: int
    state: Path
    database_url: str
    redis_url: str
    sample_data: bool

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Plan:
        """Read the environment; an empty variable counts as absent, since make passes empty ones.

        Raises:
            _RefusalError: a value is invalid.

        """
        given = {name: value for name, value in environment.items() if value}
        port = given.get("PORT") or given.get("OMS_PORT") or "8000"
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):  # the last port
            raise _RefusalError(f"PORT is {port!r}; it must be a number up to 65535, or 0 for any free port")
        # A database that the user chose gets the sample orders only on request.
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
    """All processes of one run, from the start of the servers to the last line of output."""

    def __init__(self, plan: Plan, state: StateFolder) -> None:
        self._plan = plan
        self._state = state
        self._output = ProcessOutput(_NAMES)
        self._postgres = None if plan.database_url else EmbeddedPostgres(state.path / "postgres")
        self._valkey = None if plan.redis_url else EmbeddedValkey(state.path / "valkey")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._end_times: dict[str, list[float]] = {"PostgreSQL": [], "Valkey": []}
        self._stop_requested = False

    def run(self) -> int:
        """Start, supervise until a stop is requested, and stop everything; return the exit status."""
        try:
            environment = self._start_servers()
            self._run_to_end("migrate", [sys.executable, "-m", "shared.database.migrate"], environment)
            if self._plan.sample_data:
                files = ("sample-data/orders.json", "--services", "sample-data/services.json")
                command = [sys.executable, "-m", "api.orders.import_command", *files, "--only-if-empty"]
                self._run_to_end("import", command, environment)
            self._state.publish(
                {name: value for name, value in environment.items() if name.startswith("OMS_")}
            )
            for name, module in PROCESSES.items():
                self._processes[name] = self._start(name, [sys.executable, "-m", module], environment)
            self._wait_until_ready()
            while True:
                self._supervise_once()
        except _StopRequestedError:
            self._output.print_line("stack", "stopping")
            return 0
        except StackError as error:
            self._output.print_line("stack", f"{error}; stopping")
            return 1
        finally:
            self._stop()

    def request_stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler
        """Make the main loop stop everything. A second signal has no further effect."""
        self._stop_requested = True

    def _start_servers(self) -> dict[str, str]:
        """Start the servers for which no URL is set; return the environment of the other processes."""
        urls = {"OMS_DATABASE_URL": self._plan.database_url, "OMS_REDIS_URL": self._plan.redis_url}
        if self._postgres:
            self._postgres.start(self._pump_output)
            urls["OMS_DATABASE_URL"] = self._postgres.url
            self._output.print_line("stack", f"PostgreSQL is running; its log is {self._postgres.log}")
            if self._postgres.home.parent != self._state.path:
                self._output.print_line(
                    "stack",
                    f"its data is in {self._postgres.home}, as its user cannot enter {self._state.path}; "
                    "remove both folders to delete it",
                )
        if self._valkey:
            self._valkey.start(self._pump_output)
            urls["OMS_REDIS_URL"] = self._valkey.url
            self._output.print_line("stack", f"Valkey is running; its log is {self._valkey.log}")
        address = {"OMS_HOST": self._plan.host, "OMS_PORT": str(self._plan.port)}
        return os.environ | urls | address | {_STACK_VARIABLE: str(self._state.path), "PYTHONUNBUFFERED": "1"}

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        process = start_process(command, output=subprocess.PIPE, env=environment)
        self._output.follow(name, process)
        return process

    def _run_to_end(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        """Run one command, and wait until it has ended.

        Raises:
            StackError: it failed.

        """
        process = self._start(name, command, environment)
        try:
            while process.poll() is None:
                self._supervise_once()
        finally:
            stop_processes(process, grace=2.0, meanwhile=self._output.pump)
            self._output.drain()
        if process.returncode:
            raise StackError(f"{name} failed ({_describe_exit(process.returncode)})")

    def _pump_output(self, seconds: float = 0.02) -> None:
        """Print the processes' output; raise if a stop is requested. Also called while a server starts."""
        self._output.pump(seconds)
        if self._stop_requested or self._output.is_closed:
            raise _StopRequestedError

    def _supervise_once(self) -> None:
        """Print the processes' output, and restart servers that have ended.

        Raises:
            StackError: another process has ended.
            _StopRequestedError: a stop is requested.

        """
        self._pump_output(0.1)
        for name, server in (("PostgreSQL", self._postgres), ("Valkey", self._valkey)):
            if server and server.process and server.process.poll() is not None:
                self._restart(name, server, _describe_exit(server.process.returncode))
        for name, process in self._processes.items():
            if process.poll() is not None:
                self._output.drain()  # the last lines of the process come first
                raise StackError(f"{name} ended unexpectedly ({_describe_exit(process.returncode)})")

    def _restart(self, name: str, server: EmbeddedPostgres | EmbeddedValkey, reason: str) -> None:
        """Restart a server that ended. PostgreSQL recovers all that was committed; Valkey's data may be lost.

        Raises:
            StackError: it ended too often, or doesn't start.

        """
        now = time.monotonic()
        recent = [ended for ended in self._end_times[name] if now - ended < _RESTART_WINDOW_SECONDS]
        self._end_times[name] = [*recent, now]
        if len(self._end_times[name]) > _MOST_RESTARTS:
            raise StackError(
                f"{name} ended {len(self._end_times[name])} times within a minute ({reason}); "
                f"its log is {server.log}"
            )
        self._output.print_line("stack", f"{name} ended unexpectedly ({reason}); restarting it")
        server.start(self._pump_output)
        self._output.print_line("stack", f"{name} is running again")

    def _wait_until_ready(self) -> None:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._plan.host, self._plan.host)  # noqa: S104 - no bind
        deadline = time.monotonic() + _READY_SECONDS
        while not _answers_ok(host, self._plan.port, "/health/ready"):
            self._supervise_once()
            if time.monotonic() > deadline:
                raise StackError(f"the API is not ready after {_READY_SECONDS:.0f} s")
        address = f"http://{f'[{host}]' if ':' in host else host}:{self._plan.port}"
        # The suggested request must work: the sample order may not exist, and orders may need an API key.
        working = (path for path in (_SAMPLE_ORDER, "/orders") if _answers_ok(host, self._plan.port, path))
        path = next(working, "/health/ready")
        # The API logs a request after responding, and the ready line must be the last.
        self._output.drain(0.1)
        self._output.print_line("stack", f"ready on {address}  (Ctrl-C stops)  try: curl -s {address}{path}")

    def _stop(self) -> None:
        self._state.mark_stopping()
        try:
            for names, grace in _STOPPED_TOGETHER:
                together = [self._processes[name] for name in names if name in self._processes]
                stop_processes(*together, grace=grace, meanwhile=self._output.pump)
            # Processes that left their process group.
            stop_leftovers(started_with(_STACK_VARIABLE, str(self._state.path)), grace=0.2)
            self._output.drain()
        finally:
            self._stop_servers()
        self._output.print_line("stack", "everything has stopped")

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


def _describe_exit(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _check_settings(plan: Plan) -> None:
    """Refuse what a process would refuse, before a server is started: none of their code is imported here.

    Raises:
        _RefusalError: a setting is wrong.

    """
    addresses = {
        # A server that is started here gets its URL later.
        "OMS_DATABASE_URL": plan.database_url or "postgresql://localhost",
        "OMS_REDIS_URL": plan.redis_url or "redis://localhost",
        "OMS_HOST": plan.host,
        "OMS_PORT": str(plan.port or 1),
    }
    check = [sys.executable, "-m", "shared.settings"]
    done = subprocess.run(check, env=os.environ | addresses, capture_output=True, text=True, check=False)
    if done.returncode:
        raise _RefusalError(done.stderr.strip())


def _check_port(host: str, port: int) -> None:
    """Refuse a port that is in use: the API would share it with another instance, silently.

    Raises:
        _RefusalError: the port can't be bound.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + _PORT_FREED_SECONDS
    while True:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just closed is free
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
    """Run the stack. With ``--stop-with-parent``, it also stops when its parent process ends."""
    try:
        plan = Plan.read(os.environ)
        _check_settings(plan)
        state = StateFolder(plan.state)
        state.lock()
        # Only one run can lock the folder, so processes that carry its path are from a killed run.
        stop_leftovers(started_with(_STACK_VARIABLE, str(state.path)), grace=3.0)
        port = plan.port or free_port(plan.host)
        _check_port(plan.host, port)
        plan = Plan(**{**plan.__dict__, "port": port})
    except (_RefusalError, StackError) as refusal:
        print(f"make run: {refusal}", file=sys.stderr)
        return 2
    stack = Stack(plan, state)
    # Closing the terminal stops the stack too, unless it runs under nohup.
    hang_up = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    for number in (signal.SIGINT, signal.SIGTERM, *hang_up):
        signal.signal(number, stack.request_stop)
    if "--stop-with-parent" in arguments:
        # Otherwise the stack would survive a `kill -9` of make, and keep the port and the folder in use.
        die_with_parent(os.getppid(), signal.SIGTERM)
    return stack.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
