"""``oms run``, which `make run` runs: one real stack for all tests, and one more start."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from stack import preconditions
from stack.child_processes import StackError, living, working_in
from stack.embedded_postgres import EmbeddedPostgres
from stack.embedded_valkey import free_port
from stack.plan import Plan
from stack.run import Stack
from stack.services import PROCESSES
from stack.state_folder import StateFolder
from tests.drivers import http_client, wait_until
from tests.processes import ROOT, ServiceProcess, call_command
from tests.scrapes import scrape
from tests.supervisor import READY, STOP_TIMEOUT_SECONDS, Run, stack_environment


def _port_before_a_free_one() -> int:
    """Return a free port whose next one is free too."""
    while True:
        port = free_port()
        with suppress(OSError), socket.create_server(("127.0.0.1", port + 1)):
            return port


def _refused(state: Path, port: int) -> str:
    """Run the supervisor where it must refuse; return its one line of output."""
    done = subprocess.run(
        [sys.executable, "-m", "oms", "run"],
        cwd=ROOT,
        env=stack_environment(state, port),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    """A folder for a stack; the database's unprivileged user cannot read pytest's own folders."""
    folder = Path(tempfile.mkdtemp(prefix="oms-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def running(state: Path) -> Iterator[Run]:
    """A stack that was started on an empty folder, and is ready."""
    run = Run(state, free_port(), OMS_METRICS_PORT=str(_port_before_a_free_one()))
    try:
        run.wait_until_ready()
        yield run
    finally:
        run.stop()


@pytest.fixture(scope="module")
def address(running: Run) -> str:
    """The address in the ready line."""
    return running.address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[httpx.Client]:
    """A client with a short timeout."""
    with http_client(address, timeout=5) as client:
        yield client


# This test must be the first: no other may have sent a request before.
def test_nothing_is_logged_after_the_ready_line_until_the_first_request(
    running: Run, client: httpx.Client
) -> None:
    """The supervisor's own requests are logged before it, or the line would scroll out of sight."""
    (ready,) = (number for number, line in enumerate(running.lines) if READY.search(line))
    for path in ("/health/ready", "/orders/223"):
        assert any(f"path={path} " in line for line in running.lines[:ready])
    assert client.get("/services").status_code == 200  # logged after all earlier requests
    running.read_until(re.compile("path=/services "), within=5.0)
    (asked,) = (line for line in running.lines[ready:] if "[request]" in line)
    assert "path=/services " in asked


def test_the_curl_command_of_the_ready_line_shows_a_sample_order(running: Run, client: httpx.Client) -> None:
    """The first start loads the sample data, and the suggested command works."""
    assert client.get(running.tried).json()["datetime"] == "2022-11-01T11:11:11.111Z"


def test_the_ready_line_suggests_a_public_path_where_orders_need_a_key(
    postgres_url: str, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The suggested request succeeds without a key."""
    port = free_port()
    folder = StateFolder(tmp_path)
    plan = Plan.read({"OMS_DATABASE_URL": "none", "OMS_REDIS_URL": "none", "PORT": str(port)})
    keys = {"OMS_API_KEYS": f"billing:read:{'0' * 64}"}
    with ServiceProcess("api.server", database=postgres_url, redis=redis_url, port=port, **keys):
        Stack(plan, folder)._wait_until_ready()
    assert f"curl -s http://127.0.0.1:{port}/health/ready\n" in capsys.readouterr().out


def test_relay_and_worker_serve_metrics_on_neighbouring_ports(running: Run) -> None:
    """Both read one variable, and the worker gets the port after the relay's."""
    text = "\n".join(running.lines)
    (relay,) = re.findall(r"^relay .*serving_metrics.*port=(\d+)", text, re.MULTILINE)
    (worker,) = re.findall(r"^worker .*serving_metrics.*port=(\d+)", text, re.MULTILINE)
    assert int(worker) == int(relay) + 1
    assert scrape(int(relay)).of("relay_leading") == 1
    assert "worker_queue_failures_total" in scrape(int(worker)).names()


def test_log_lines_carry_the_name_of_their_process(running: Run) -> None:
    """The relay may log its first line late; nothing waits for it."""

    def names() -> set[str]:
        return {line.split("|")[0].strip() for line in running.lines}

    if "relay" not in names():
        running.read_until(re.compile("^relay"), within=15.0)
    assert {"stack", "migrate", "import", "api", "relay"} <= names()


def test_a_port_in_use_is_reported_in_one_line(running: Run, address: str, tmp_path: Path) -> None:
    """Nothing is started beside a port that is taken, not even a database."""
    port = int(address.rsplit(":", 1)[1])
    assert "Address already in use" in _refused(tmp_path / "other", port)
    assert not (tmp_path / "other" / "postgres").exists()
    assert running.process.poll() is None


def test_a_second_stack_in_one_folder_is_refused_in_one_line(running: Run) -> None:
    """The first one continues."""
    assert str(running.process.pid) in _refused(running.state, free_port())
    assert running.process.poll() is None


def test_a_command_run_beside_the_stack_uses_the_servers_of_the_stack(running: Run) -> None:
    """What `make import` does: the sample file was imported already, so there is nothing to do."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "oms", "import"),
            *("sample-data/orders.json", "--services", "sample-data/services.json"),
        ],
        cwd=ROOT,
        env=stack_environment(running.state, 0),
        check=False,
        timeout=30,
    )
    assert done.returncode == 0


def test_a_command_on_another_database_needs_neither_a_stack_nor_redis(
    new_database_url: str, tmp_path: Path
) -> None:
    """What `OMS_DATABASE_URL=… make import` does; without that address it needs a stack."""
    call_command("shared.database.migrate", database=new_database_url).check_returncode()
    own = {"OMS_DATABASE_URL": new_database_url}
    for setting, status, output in ((own, 0, "imported 3 orders"), ({}, 2, "no system is running in")):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "oms", "import"),
                *("sample-data/orders.json", "--services", "sample-data/services.json"),
            ],
            cwd=ROOT,
            env=stack_environment(tmp_path, 0) | setting,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == status, done.stderr
        assert output in done.stdout + done.stderr


def test_a_killed_valkey_is_restarted_while_orders_are_accepted(running: Run, client: httpx.Client) -> None:
    """Orders do not depend on it, and the other processes find it at the same address."""
    (valkey,) = working_in(running.state / "valkey", "valkey-server")
    valkey.kill()
    order = {"id": "9000", "datetime": "2031-01-01T12:00:00Z", "totalfee": 1, "services": [{"id": "123"}]}
    assert client.post("/orders", json=order).status_code == 201
    running.read_until(re.compile("Valkey is running again"), within=15.0)
    assert any("Valkey ended unexpectedly (killed by SIGKILL)" in line for line in running.lines)

    def queue_is_back() -> bool:
        return bool(client.get("/health/ready").json()["checks"]["queue"] == "ok")

    wait_until(queue_is_back, "the queue is reachable", seconds=15.0)
    (again,) = working_in(running.state / "valkey", "valkey-server")
    assert again.pid != valkey.pid
    assert client.delete("/orders/9000").status_code == 204


def test_a_killed_postgresql_is_restarted_with_every_acknowledged_order(running: Run, address: str) -> None:
    """Callers that retry meanwhile succeed in the end."""
    postmaster = _postmaster(running)
    stored: list[int] = []
    killed = False
    deadline = time.monotonic() + 30.0
    with http_client(address) as client:
        while not killed or len(stored) < 10:
            assert time.monotonic() < deadline
            number = 9100 + len(stored)
            order = {"id": str(number), "datetime": f"2032-01-{len(stored) + 1:02}T12:00:00Z", "totalfee": 1}
            answer = client.post("/orders", json=order | {"services": [{"id": "123"}]})
            # 409: stored by a try whose answer was lost.
            assert answer.status_code in {201, 409, 503}, answer.text
            if answer.status_code == 503:
                time.sleep(0.05)
            else:
                stored.append(number)
            if len(stored) == 5 and not killed:
                postmaster.kill()
                killed = True
        running.read_until(re.compile("PostgreSQL is running again"), within=15.0)
        assert any("PostgreSQL ended unexpectedly (killed by SIGKILL)" in line for line in running.lines)
        for number in stored:
            assert client.get(f"/orders/{number}").status_code == 200
        last = f"/fee-summaries?after_version={stored[-1]}:1"
        wait_until(lambda: client.get(last).status_code == 200, "relay and worker continue", seconds=30.0)
        for number in stored:
            assert client.delete(f"/orders/{number}").status_code == 204
    assert _postmaster(running).pid != postmaster.pid


def _postmaster(run: Run) -> psutil.Process:
    return psutil.Process(int((run.state / "postgres" / "data" / "postmaster.pid").read_text().split()[0]))


def test_a_postgresql_whose_data_was_deleted_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    """As after `rm -rf .local` beside a running stack."""
    with EmbeddedPostgres(tmp_path / "postgres", durable=False) as postgres:
        assert postgres.process
        postgres.process.kill()
        postgres.process.wait()
        shutil.rmtree(postgres.home / "data")
        with pytest.raises(StackError, match="is missing"):
            postgres.start()


def test_a_stack_told_to_stop_while_postgresql_recovers_stops_at_once(state: Path) -> None:
    """However long the recovery would take: here it waits for an archive that delivers nothing."""
    folder = state / "recovering"
    folder.mkdir()
    with EmbeddedPostgres(folder / "postgres") as postgres:
        data = postgres.home / "data"
    (data / "recovery.signal").touch()
    with (data / "postgresql.auto.conf").open("a") as configuration:
        configuration.write("restore_command = 'sleep 60'\n")
    run = Run(folder, free_port())
    try:
        wait_until(lambda: "starting" in _server_state(data), "PostgreSQL recovers", seconds=15.0)
        time.sleep(0.5)
        assert run.process.poll() is None
        assert "starting" in _server_state(data)
        processes = run.processes()
        run.process.send_signal(signal.SIGTERM)
        run.wait_until_ended(STOP_TIMEOUT_SECONDS)
        assert run.process.returncode == 0, run.lines
        wait_until(lambda: not living(processes), f"{processes} have ended", seconds=1.0)
    finally:
        run.stop()


def _server_state(data: Path) -> str:
    try:
        return (data / "postmaster.pid").read_text()
    except FileNotFoundError:
        return ""


def test_a_valkey_that_keeps_ending_is_started_again_at_its_address_after_growing_pauses(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """However often: orders do not depend on it."""
    folder = StateFolder(state / "unstable")
    stack = Stack(replace(Plan.read({"OMS_DATABASE_URL": "none"}), state=folder.path), folder)
    assert stack._valkey
    stack._valkey.start()
    url = stack._valkey.url
    ended: set[int] = set()

    def runs_again() -> bool:
        stack._supervise_once()
        assert stack._valkey
        process = stack._valkey.process
        return process is not None and process.poll() is None and process.pid not in ended

    try:
        for _ in range(7):
            assert stack._valkey.process
            ended.add(stack._valkey.process.pid)
            stack._valkey.process.kill()
            stack._valkey.process.wait()
            wait_until(runs_again, "Valkey runs again", 20)
            assert stack._valkey.url == url
    finally:
        stack._valkey.stop()
    pauses = re.findall(r"starting it again in (\S+) s", capsys.readouterr().out)
    assert pauses == ["0.25", "0.25", "0.25", "0.5", "1", "2", "4"]


@pytest.mark.parametrize("module", ["api.server", "api.relay.main", "worker.main"])
def test_a_killed_process_is_started_again_without_its_children(
    running: Run, client: httpx.Client, module: str
) -> None:
    """Its children are killed too: they would hold the port, or go on consuming."""
    (main,) = _processes_of(running, module)
    before = [main, *main.children(recursive=True)]
    main.kill()
    running.read_until(re.compile(r"ended unexpectedly \(killed by SIGKILL\); starting it again"), within=5)
    wait_until(lambda: not living(before), "all of them have ended")
    wait_until(lambda: len(_processes_of(running, module)) == 1, "it runs again", 10)
    wait_until(partial(_answers, client, "/health/ready"), "the API answers", 15)
    order = {"datetime": "2033-01-01T12:00:00Z", "totalfee": 1, "services": [{"id": "123"}]}
    stored = client.post("/orders", json=order).json()
    summed = f"/fee-summaries?after_version={stored['id']}:1"
    wait_until(partial(_answers, client, summed), "summed", 15)
    assert client.delete(f"/orders/{stored['id']}").status_code == 204


def _answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


def _processes_of(run: Run, module: str) -> list[psutil.Process]:
    return [child for child in psutil.Process(run.process.pid).children() if module in child.cmdline()]


@pytest.mark.parametrize("name", ["api", "relay", "worker"])
def test_everything_runs_when_the_stack_says_that_it_is_ready(running: Run, name: str) -> None:
    """The worker too: its first task need not wait for it."""
    (ready,) = (number for number, line in enumerate(running.lines) if READY.search(line))
    started = {"api": "Started worker", "relay": "started", "worker": "ready."}
    assert any(line.startswith(name) and started[name] in line for line in running.lines[:ready])


def test_a_temporary_folder_that_cannot_be_written_is_reported_in_one_line(tmp_path: Path) -> None:
    """Nothing is started before that."""
    done = subprocess.run(
        [sys.executable, "-m", "oms", "run"],
        cwd=ROOT,
        env=stack_environment(tmp_path / "state", free_port()) | {"TMPDIR": str(tmp_path / "missing")},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"the temporary folder {tmp_path / 'missing'} can't be written (No such file or directory)" in line
    assert not (tmp_path / "state").exists()


def test_a_shared_memory_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Semaphores and PostgreSQL need it; under /proc, nobody can create a file."""
    monkeypatch.setattr(preconditions, "_SHARED_MEMORY", Path("/proc/self"))
    with pytest.raises(StackError, match=r"^the shared memory /proc/self can't be written"):
        preconditions.check_folders({})


def test_a_process_that_never_was_ready_and_keeps_ending_stops_the_stack(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong setting, for instance, is not hidden by starting it again and again."""
    folder = StateFolder(state / "hopeless")
    folder.lock()
    plan = replace(Plan.read({"OMS_DATABASE_URL": "none", "OMS_REDIS_URL": "none"}), state=folder.path)
    stack = Stack(plan, folder)
    monkeypatch.setitem(PROCESSES, "worker", "no.such.module")
    stack._environment = dict(os.environ)
    stack._start_service("worker")
    with pytest.raises(StackError, match="worker ended 5 times without being ready"):
        stack._wait_until_ready()


def test_a_command_without_a_running_stack_says_how_to_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the folder that was asked for."""
    folder = tmp_path / "a b"
    with pytest.raises(StackError, match=re.escape(f"make run STATE_DIR='{folder}'")):
        StateFolder(folder).environment()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StackError, match=r"make run$"):
        StateFolder(Path(".local")).environment()


def test_a_stack_killed_with_sigkill_restarts_with_its_data_and_sigterm_ends_all_processes(
    running: Run, address: str, client: httpx.Client
) -> None:
    """Nothing of the killed run blocks the next one, and every acknowledged order is there."""
    assert client.delete("/orders/223").status_code == 204
    order = {"id": "9001", "datetime": "2030-01-01T12:00:00Z", "totalfee": 12.5, "services": [{"id": "123"}]}
    assert client.post("/orders", json=order).status_code == 201
    before = {process.pid for process in running.processes()}
    running.process.kill()
    running.process.wait(STOP_TIMEOUT_SECONDS)

    again = Run(running.state, int(address.rsplit(":", 1)[1]))
    try:
        again.wait_until_ready()
        assert client.get("/orders/9001").json()["totalfee"] == 12.5
        assert any(re.search(r"import *\| .*not imported.*: nothing to do", line) for line in again.lines)
        assert again.tried == f"{address}/orders"  # order 223 was deleted
        processes = again.processes()
        assert len(processes) > 6  # API, relay, worker and their children, PostgreSQL's, Valkey
        assert before.isdisjoint(process.pid for process in processes)

        begun = time.monotonic()
        again.process.send_signal(signal.SIGTERM)
        again.process.send_signal(signal.SIGINT)  # a Ctrl-C while it stops changes nothing
        again.wait_until_ended(STOP_TIMEOUT_SECONDS)
        assert time.monotonic() - begun < STOP_TIMEOUT_SECONDS
        assert again.process.returncode == 0
        # Of a killed group only the leader is waited for; the others are still ending.
        wait_until(lambda: not living(processes), f"{processes} have ended", seconds=1.0)
        assert again.processes() == []
    finally:
        again.stop()
