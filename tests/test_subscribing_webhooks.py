"""``docs/subscribing-webhooks.md`` does what it says: the receiver is run as it stands there."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.builders import later
from tests.drivers import wait_until
from tests.processes import ROOT, free_port
from tests.webhook_steps import deliver, deliveries, make_due, missed, subscribe

if TYPE_CHECKING:
    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]
PAGE = next(
    page
    for page in (ROOT / "docs" / "subscribing-webhooks.md", ROOT / "docs" / "subscribing.md")
    if page.exists() and "receiver.py" in page.read_text()
).read_text()


@contextmanager
def receiver(folder: Path, port: int, secret: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the page's receiver, killed at the end."""
    (script,) = (text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "Webhook(" in text)
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
        wait_until(lambda: answers(port), "the receiver listens")
        yield process
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    """Tell whether somebody listens, who refuses what is not signed."""
    try:
        return httpx.post(f"http://127.0.0.1:{port}/", json={}).status_code == 401
    except httpx.TransportError:
        return False


def test_the_receiver_of_the_page_acts_once_on_each_change_whatever_restarts(
    api: Api, run: Run, database: Database, tmp_path: Path
) -> None:
    """Killed in between, sent everything twice: every change is there once."""
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


def test_the_commands_of_the_page_are_operations_of_the_contract() -> None:
    """Every path it names exists."""
    contract = (ROOT / "contract" / "openapi.yaml").read_text()
    paths = {path.replace("/1", "/{webhook_id}") for path in re.findall(r"127\.0\.0\.1:8000(/\S+)", PAGE)}
    assert len(paths) >= 5
    assert [path for path in sorted(paths) if f"\n  {path}:\n" not in contract] == []
