"""``oms run``: start every process of the system on this machine, supervise them, and stop them together.

Reads the variables of ``stack/plan.py`` and the processes' own OMS_ variables. Exit status: 0 stopped on
request, 1 failed, 2 refused to start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from stack.child_processes import (
    DataMissingError,
    StackError,
    die_with_parent,
    start_process,
    started_with,
    stop_leftovers,
    stop_processes,
)
from stack.embedded_postgres import EmbeddedPostgres
from stack.embedded_valkey import EmbeddedValkey, free_port
from stack.http_check import answers_ok
from stack.plan import Plan
from stack.preconditions import check_folders, check_port, check_settings
from stack.process_output import ProcessOutput
from stack.restarts import Restarts
from stack.services import services_of, stopped_together
from stack.state_folder import StateFolder

_READY_SECONDS = 60.0
"""After this time the names of those that are not ready are printed."""
_MOST_FAILED_STARTS = 5
"""A process that ends so often at once stops the stack, if it never was ready."""
_STACK_VARIABLE = "ORDER_STACK"
"""Set to STATE_DIR for every process started here, and its children, so that a later run can find them."""
_SAMPLE_ORDER = "/orders/223"


class _StopRequestedError(Exception):
    """Not an error: a signal was received, or the pipe behind standard output was closed."""


class Stack:
    """All processes of one run, from the start of the servers to the last line of output."""

    def __init__(self, plan: Plan, state: StateFolder) -> None:
        self._plan = plan
        self._state = state
        self._services = services_of(plan)
        self._output = ProcessOutput([*self._services, "migrate", "import", "stack"])
        connections = {"max_connections": str(plan.max_connections)}
        data = state.path / "postgres"
        self._postgres = None if plan.database_url else EmbeddedPostgres(data, settings=connections)
        self._valkey = None if plan.redis_url else EmbeddedValkey(state.path / "valkey")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._servers: dict[str, EmbeddedPostgres | EmbeddedValkey | None] = {
            "PostgreSQL": self._postgres,
            "Valkey": self._valkey,
        }
        self._restarts = {name: Restarts() for name in (*self._services, *self._servers)}
        self._environment: dict[str, str] = {}
        self._was_ready = False
        self._stop_requested = False

    def run(self) -> int:
        """Start, supervise until a stop is requested, and stop everything; return the exit status."""
        try:
            environment = self._start_servers()
            self._run_to_end("migrate", [sys.executable, "-m", "shared.database.migrate"], environment)
            if self._plan.sample_data:
                files = ("sample-data/orders.json", "--services", "sample-data/services.json")
                command = [sys.executable, "-m", "oms", "import", *files, "--only-if-empty"]
                self._run_to_end("import", command, environment)
            self._state.publish(
                {name: value for name, value in environment.items() if name.startswith("OMS_")}
            )
            self._environment = environment
            for name in self._services:
                self._start_service(name)
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
        own = {_STACK_VARIABLE: str(self._state.path), "PYTHONUNBUFFERED": "1"}
        return os.environ | urls | self._plan.settings | own

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

    def _start_service(self, name: str) -> None:
        """Start one of the system's own processes, with a heartbeat file of its own."""
        service = self._services[name]
        self._heartbeat(name).unlink(missing_ok=True)
        environment = service.environment(self._environment, self._state.path)
        self._restarts[name].record_start()
        self._processes[name] = self._start(name, service.command, environment)

    def _heartbeat(self, name: str) -> Path:
        return self._services[name].heartbeat(self._state.path)

    def _supervise_once(self) -> None:
        """Print the processes' output, and start again what has ended.

        Raises:
            StackError: PostgreSQL's data is missing, or a process never was ready and keeps ending.
            _StopRequestedError: a stop is requested.

        """
        self._pump_output(0.1)
        for name, server in self._servers.items():
            if server and (server.process is None or server.process.poll() is not None):
                self._restart_server(name, server)
        for name, process in self._processes.items():
            if process.poll() is not None:
                self._restart_service(name, process)

    def _restart_server(self, name: str, server: EmbeddedPostgres | EmbeddedValkey) -> None:
        """Restart a server that ended. PostgreSQL recovers all that was committed; Valkey's data may be lost.

        Raises:
            DataMissingError: it must not start with an empty database.

        """
        restarts = self._restarts[name]
        if not restarts.is_waiting:
            self._report_end(name, server.process)
        elif restarts.is_due:
            try:
                server.start(self._pump_output)
            except DataMissingError:
                raise
            except (StackError, OSError) as error:
                self._output.print_line("stack", f"{error}; trying again in {restarts.record_end():g} s")
            else:
                restarts.record_start()
                self._output.print_line("stack", f"{name} is running again")

    def _restart_service(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Start a process of the system again.

        Raises:
            StackError: the system never was ready, and the process keeps ending.

        """
        restarts = self._restarts[name]
        if not restarts.is_waiting:
            # Its children would hold the port, or go on consuming.
            stop_processes(process, grace=0.0)
            self._output.drain()  # the last lines of the process come first
            self._report_end(name, process)
            if not self._was_ready and restarts.in_a_row >= _MOST_FAILED_STARTS:
                raise StackError(f"{name} ended {restarts.in_a_row} times without being ready")
        elif restarts.is_due:
            self._start_service(name)

    def _report_end(self, name: str, process: subprocess.Popen[bytes] | None) -> None:
        reason = _describe_exit(process.returncode) if process else "it did not start"
        pause = self._restarts[name].record_end()
        self._output.print_line(
            "stack", f"{name} ended unexpectedly ({reason}); starting it again in {pause:g} s"
        )

    def _wait_until_ready(self) -> None:
        """Wait until everything runs, and say so."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._plan.host, self._plan.host)  # noqa: S104 - no bind
        deadline = time.monotonic() + _READY_SECONDS
        while missing := self._not_ready(host):
            self._supervise_once()
            if time.monotonic() > deadline:
                deadline = float("inf")
                self._output.print_line(
                    "stack",
                    f"not ready after {_READY_SECONDS:.0f} s, still waiting for: {', '.join(missing)}",
                )
        self._was_ready = True
        address = f"http://{f'[{host}]' if ':' in host else host}:{self._plan.port}"
        # The suggested request must work: the sample order may not exist, and orders may need an API key.
        working = (path for path in (_SAMPLE_ORDER, "/orders") if answers_ok(host, self._plan.port, path))
        path = next(working, "/health/ready")
        # The API logs a request after responding, and the ready line must be the last.
        self._output.drain(0.1)
        self._output.print_line("stack", f"ready on {address}  (Ctrl-C stops)  try: curl -s {address}{path}")

    def _not_ready(self, host: str) -> list[str]:
        """Return the names of the processes that do not run yet: the API must answer, the others beat."""
        silent = [name for name in self._processes if name != "api" and not self._heartbeat(name).exists()]
        # Asked last, so that its log has one line about it.
        return silent or ([] if answers_ok(host, self._plan.port, "/health/ready") else ["api"])

    def _stop(self) -> None:
        self._state.mark_stopping()
        try:
            for names, grace in stopped_together(self._services):
                together = [self._processes[name] for name in names if name in self._processes]
                drain = self._plan.drain if "api" in names else 0
                stop_processes(*together, grace=grace + drain, meanwhile=self._output.pump)
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


def _describe_exit(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def run_stack(*, stop_with_parent: bool = False) -> int:
    """Run the stack, and return its exit status; it may also stop when its parent process ends.

    Raises:
        StackError: it can't be started; nothing was.

    """
    plan = Plan.read(os.environ)
    check_folders(os.environ)
    check_settings(plan)
    state = StateFolder(plan.state)
    state.lock()
    # Only one run can lock the folder, so processes that carry its path are from a killed run.
    stop_leftovers(started_with(_STACK_VARIABLE, str(state.path)), grace=3.0)
    port = plan.port or free_port(plan.host)
    check_port(plan.host, port)
    plan = Plan(**{**plan.__dict__, "port": port})
    stack = Stack(plan, state)
    # Closing the terminal stops the stack too, unless it runs under nohup.
    hang_up = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    for number in (signal.SIGINT, signal.SIGTERM, *hang_up):
        signal.signal(number, stack.request_stop)
    if stop_with_parent:
        # Otherwise the stack would survive a `kill -9` of make, and keep the port and the folder in use.
        die_with_parent(os.getppid(), signal.SIGTERM)
    return stack.run()
