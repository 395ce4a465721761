"""The webhooks of ``docs/subscribing.md``: its receiver and its commands, run as printed there."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from stack.embedded_valkey import free_port
from tests.builders import later
from tests.drivers import http_client, wait_until
from tests.processes import ROOT
from tests.webhook_steps import deliver, deliveries, make_due, missed, subscribe

if TYPE_CHECKING:
    from tests.drivers import Api, Database, Pipeline

Run = Callable[[Coroutine[Any, Any, Any]], Any]
GUIDE = (ROOT / "docs" / "subscribing.md").read_text()
SECTION = GUIDE[GUIDE.index("## Webhooks") : GUIDE.index("## Several cells")]
BLOCKS = re.findall(r"```sh\n(.*?)\n```", SECTION, re.DOTALL)


@contextmanager
def receiver(folder: Path, port: int, secret: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the page's receiver, killed at the end."""
    (script,) = (text for text in re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL))
    (folder / "receiver.py").write_text(script)
    settings = {"WEBHOOK_SECRET": secret, "PORT": str(port), "SEEN": str(folder / "seen.sqlite")}
    process = subprocess.Popen(
        [sys.executable, "receiver.py"],
        cwd=folder,
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with http_client(f"http://127.0.0.1:{port}") as client:
            wait_until(lambda: answers(client), "the receiver listens")
        yield process
    finally:
        process.kill()
        process.wait()


def answers(client: httpx.Client) -> bool:
    """Whether the receiver answers, refusing an unsigned request."""
    try:
        return client.post("/", json={}).status_code == 401
    except httpx.TransportError:
        return False


def test_the_guides_webhook_receiver_acts_once_on_each_change_despite_restarts(
    api: Api, run: Run, database: Database, tmp_path: Path
) -> None:
    """It is killed in between and sent everything twice."""
    port = free_port()
    webhook = subscribe(api, f"http://127.0.0.1:{port}/")
    with receiver(tmp_path, port, webhook["secret"]):
        api.placed_order(at=later())
        run(deliver())
    api.placed_order(at=later(hours=3))
    run(deliver())
    assert missed(api, webhook) == {2: "retrying"}
    rotated = api.client.post(f"/webhooks/{webhook['id']}/secret/rotation", json={}).json()
    with receiver(tmp_path, port, rotated["secret"]):
        make_due(database)
        run(deliver())
        assert missed(api, webhook) == {}
        api.client.post(f"/webhooks/{webhook['id']}/replay", json={"after": 0})
        api.client.post(f"/webhooks/{webhook['id']}/test")
        assert run(deliver()) == 3
        assert {d["status"] for d in deliveries(api, webhook)} == {"delivered"}
    with sqlite3.connect(tmp_path / "seen.sqlite") as seen:
        kept = seen.execute("SELECT order_id, version FROM seen ORDER BY id").fetchall()
    orders = [(order["id"], 1) for order in api.every_order()]
    assert kept == [*orders, (webhook["id"], None)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_the_guides_commands_lead_to_a_verified_webhook(pipeline: Pipeline, tmp_path: Path) -> None:
    """Each as it is written except for host and port; the receiver gets the secret as the guide says."""
    port = free_port()
    subscribing, starting, trying, asking = BLOCKS

    def shell(block: str) -> str:
        here = block.replace("127.0.0.1:8000", pipeline.api.url.removeprefix("http://"))
        return subprocess.run(
            ["/bin/sh", "-ec", here.replace("127.0.0.1:9000", f"127.0.0.1:{port}")],
            check=True,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def answers_to(block: str) -> list[Any]:
        parsed, text = [], shell(block).strip()
        while text:
            answer, end = json.JSONDecoder().raw_decode(text)
            parsed.append(answer)
            text = text[end:]
        return parsed

    (webhook,) = answers_to(subscribing)
    assert webhook["url"] == f"http://127.0.0.1:{port}/"
    program = ".venv/bin/python receiver.py"
    assert starting.endswith(program)
    secret = shell(starting.replace(program, "printenv WEBHOOK_SECRET")).strip()
    assert secret == webhook["secret"]
    with receiver(tmp_path, port, secret):
        test, _ = answers_to(trying)
        wait_until(
            lambda: answers_to(trying.splitlines()[1])[0]["items"][0]["status"] == "delivered",
            "the test arrived",
        )
        assert test["type"] == "webhook.test"
        pipeline.api.placed_order()
        wait_until(
            lambda: answers_to(asking.splitlines()[0])[0]["as_of"]["acknowledged"] == 1, "the change arrived"
        )
        missed_by_then, replayed, again = answers_to(asking)
        assert missed_by_then["as_of"] == {"after": 0, "position": 1, "acknowledged": 1}
        assert (replayed, again) == ({"deliveries": 0}, {"deliveries": 1})
        wait_until(lambda: missed(pipeline.api, webhook) == {}, "it arrived again")
    with sqlite3.connect(tmp_path / "seen.sqlite") as seen:
        assert seen.execute("SELECT count(*) FROM seen").fetchone() == (2,)
