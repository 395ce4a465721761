"""``oms listen``: every change in order, signed, whatever is restarted."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from standardwebhooks import Webhook

from stack.embedded_valkey import free_port
from tests.builders import later, order_body
from tests.command_steps import command_environment, oms
from tests.drivers import Api, wait_until
from tests.local_server import LocalHandler, LocalServer
from tests.processes import ROOT, ServiceProcess
from tests.random_rounds import seeds

if TYPE_CHECKING:
    from tests.drivers import Database

SECRET = "whsec_bm90IGEgc2VjcmV0LCBhbiBleGFtcGxlIG9mIG9uZQ=="
CHANGES = 60


class _Receiver:
    """A developer's endpoint on a port that stays its own, which fails at times and can be restarted."""

    def __init__(self, draw: random.Random) -> None:
        self.port = free_port()
        self.acknowledged: list[int] = []
        self._draw = draw
        self._server: LocalServer | None = None

    def start(self) -> None:
        receiver = self

        class Handler(LocalHandler):
            def respond(self) -> None:
                body = self.read_body()
                Webhook(SECRET).verify(body, dict(self.read_headers()))
                fails = receiver._draw.random() < 0.1
                if not fails:
                    receiver.acknowledged.append(int(json.loads(body)["sequence"]))
                self.answer_with(500 if fails else 204)

        self._server = LocalServer(Handler, self.port)
        self._server.start()

    def stop(self) -> None:
        if self._server:
            self._server.stop()
            self._server = None


class _Listener:
    """The command, with its state in a folder of the test's."""

    def __init__(self, folder: Path, server: str, forward_to: str, *more: str) -> None:
        self.log = folder / "listen.log"
        self.state_file = folder / "state" / "listen.json"
        self._command = [
            *(sys.executable, "-m", "oms", "listen", "--server", server, "--forward-to", forward_to),
            *("--state-file", str(self.state_file), *more),
        ]
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        """Start it, and wait until it follows."""
        self._starts += 1
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *more],
                cwd=ROOT,
                env=command_environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: self.log.read_text().count("posting to") == self._starts, "it follows", 30)

    def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(20)


@pytest.mark.parametrize("seed", seeds(1))
def test_no_restart_leaves_a_gap_or_changes_the_order(
    database: Database, postgres_url: str, redis_url: str, tmp_path: Path, seed: int
) -> None:
    """Of the API, of the receiver, and of the command itself, by Ctrl-C and killed; some answers are 500."""
    draw = random.Random(seed)
    database.add_services()
    port = free_port()
    receiver = _Receiver(draw)
    receiver.start()
    address = f"http://127.0.0.1:{receiver.port}/hook"
    listener = _Listener(tmp_path, f"http://127.0.0.1:{port}", address, "--secret", SECRET)
    api_process = ServiceProcess("api.server", database=postgres_url, redis=redis_url, port=port)
    with (
        api_process,
        ServiceProcess("api.relay.main", database=postgres_url, redis=redis_url),
        Api(port) as api,
    ):
        api.wait_until_ready()
        listener.start("--after", "0")
        restarts = ["api", "receiver", "killed", "interrupted"] * 2
        draw.shuffle(restarts)
        for number in range(CHANGES):
            if number % 7 == 3 and restarts:
                kind = restarts.pop()
                if kind == "api":
                    api_process.kill()
                    api_process.start()
                    api.wait_until_ready()
                elif kind == "receiver":
                    receiver.stop()
                    time.sleep(draw.random() / 2)
                    receiver.start()
                elif kind == "killed":
                    assert listener.end(signal.SIGKILL) == -signal.SIGKILL
                    listener.start()
                else:
                    assert listener.end(signal.SIGINT) == 0, listener.log.read_text()
                    listener.start()
            body = order_body(at=later(days=number))
            wait_until(partial(_is_stored, api, body), "it is stored")
        wait_until(lambda: CHANGES in receiver.acknowledged, "all have arrived", 40)
        assert listener.end(signal.SIGTERM) == 0
        receiver.stop()
    arrived = receiver.acknowledged
    assert list(dict.fromkeys(arrived)) == list(range(1, CHANGES + 1))
    # Only the last one before the command was killed, or before an answer was lost, comes again, and at once.
    assert arrived == sorted(arrived)
    assert len(arrived) <= CHANGES + 4  # it was killed twice, and the receiver stopped twice
    assert json.loads(listener.state_file.read_text())["position"] == CHANGES
    assert f"stopped at position {CHANGES}" in listener.log.read_text()
    assert "Traceback" not in listener.log.read_text()


def _is_stored(api: Api, body: dict[str, object]) -> bool:
    try:
        return api.client.post("/orders", json=body).status_code in {201, 409}
    except httpx.TransportError:
        return False


def test_one_listener_at_a_time_uses_a_state_file_and_a_lost_position_is_said(
    api: Api, tmp_path: Path
) -> None:
    """It makes a secret, keeps it, and starts with the latest change; a file of others is refused."""
    server = str(api.client.base_url).rstrip("/")
    listener = _Listener(tmp_path, server, "http://127.0.0.1:1/hook")
    listener.start()
    state = json.loads(listener.state_file.read_text())
    assert state["position"] == 0
    same = [*("--server", server), *("--forward-to", "http://127.0.0.1:1/hook")]
    same += ["--state-file", str(listener.state_file)]
    second = oms("listen", *same)
    assert (second.returncode, "another `oms listen` uses" in second.stderr) == (1, True)
    assert listener.end(signal.SIGINT) == 0
    assert f"signing with {state['secret']}" in listener.log.read_text()
    lost = oms("listen", *same, "--after", "7")
    assert lost.returncode == 1
    assert "the API answered 410" in lost.stderr
    assert "--after latest" in lost.stderr
    listener.state_file.write_text("{}")
    assert oms("listen", *same).returncode == 2
