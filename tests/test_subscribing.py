"""The consumers of docs/subscribing.md, run as printed there, killed and restarted."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from contract.checks.document import EVENTS, load
from tests.builders import later
from tests.drivers import wait_until
from tests.processes import ROOT
from tests.subscribers import Feed, RedisReader, items_of, position_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.drivers import Pipeline

GUIDE = (ROOT / "docs" / "subscribing.md").read_text()
OF_ONE_LOG = GUIDE[: GUIDE.index("## Several cells")]
"""tests/test_cells_together.py runs the others."""
PROGRAMS: dict[str, str] = dict(re.findall(r"```python\n# (\w+)\.py: (.*?)```", OF_ONE_LOG, re.DOTALL))
WEBHOOKS = GUIDE[GUIDE.index("## Webhooks") :]
"""It has a test of its own."""
COMMANDS = re.findall(r"^curl .*", GUIDE.removesuffix(WEBHOOKS), re.MULTILINE)
HERE = "http://127.0.0.1:8000"


class Consumer:
    """A program of the guide, in a folder of its own."""

    def __init__(self, name: str, folder: Path, pipeline: Pipeline) -> None:
        self.name = name
        self._folder = folder
        self._program = folder / f"{name}.py"
        self._program.write_text(f"# {PROGRAMS[name]}")
        self._environment = {"ORDERS_API": pipeline.api.url, "ORDERS_REDIS": pipeline.redis_url}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program as a process."""
        self._process = subprocess.Popen(
            [sys.executable, self._program], cwd=self._folder, env=self._environment
        )

    def kill(self) -> None:
        """Kill the process if it was started; it must not have ended by itself."""
        if self._process is not None:
            assert self._process.poll() is None, f"{self.name} ended by itself"
            self._process.kill()
            self._process.wait()
            self._process = None

    def work(self) -> list[tuple[Any, ...]]:
        """Read its results, in their order."""
        with sqlite3.connect(f"file:{self._folder}/{self.name}.db?mode=ro", uri=True) as db:
            return db.execute("SELECT position, type, subject, version FROM work ORDER BY rowid").fetchall()

    def has_done(self, count: int) -> bool:
        """Whether it has at least so many results."""
        try:
            return len(self.work()) >= count
        except sqlite3.OperationalError:
            return False  # not begun yet


@pytest.fixture
def consumers(pipeline: Pipeline, tmp_path: Path) -> Iterator[list[Consumer]]:
    """The guide's consumers, not running."""
    created = []
    for name in PROGRAMS:
        folder = tmp_path / name
        folder.mkdir()
        created.append(Consumer(name, folder, pipeline))
    try:
        yield created
    finally:
        for consumer in created:
            consumer.kill()


def test_every_consumer_of_the_guide_survives_being_killed_without_losing_or_repeating_work(
    pipeline: Pipeline, consumers: list[Consumer]
) -> None:
    rng = random.Random(41)
    api = pipeline.api
    assert {consumer.name for consumer in consumers} == {"feed", "stream", "redis_stream"}
    for consumer in consumers:
        consumer.start()
    placed = 0
    for round_ in range(3):
        for _ in range(30):
            order = api.placed_order(at=later(days=placed))["id"]
            placed += 1
            if rng.random() < 0.3:
                api.client.delete(f"/orders/{order}")
            time.sleep(rng.random() * 0.02)
        for consumer in consumers:
            consumer.kill()
        if round_ == 1:
            RedisReader(pipeline.redis_url).client.flushdb()
        for consumer in consumers:
            consumer.start()
    count = int(pipeline.database.value("SELECT count(*) FROM order_change"))
    for consumer in consumers:
        wait_until(partial(consumer.has_done, count), f"{consumer.name} has done everything")
    expected = [
        (position_of(text), *map(event_of(text).get, ("type", "subject", "orderversion")))
        for text in Feed.after(api, limit=100).all()
    ]
    assert len(expected) == count
    for consumer in consumers:
        assert consumer.work() == expected, consumer.name


def event_of(text: str) -> dict[str, Any]:
    """Read a notification."""
    event: dict[str, Any] = json.loads(text)
    return event


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_every_command_of_the_guide_works(pipeline: Pipeline, command: str) -> None:
    order = pipeline.api.placed_order(id="223")["id"]
    pipeline.api.placed_order(id="224", at=later(days=1))
    wait_until(lambda: len(Feed.after(pipeline.api).all()) == 2, "the changes have their positions")
    assert HERE in command
    # The stream has no end of its own.
    ran = subprocess.run(
        ["/bin/sh", "-c", command.replace("curl ", "curl --max-time 1 ").replace(HERE, pipeline.api.url)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode in (0, 28), ran.stderr
    if "latest" in command:
        assert ran.stdout == '{"position":2}'
    elif "stream" in command:
        assert (f'"subject":"{order}"' in ran.stdout) is ("after=0" in command)
        assert "\nid: 2\nevent: order.created\ndata: {" in ran.stdout
    elif "PATCH" in command:
        assert f'"id":"{order}"' in ran.stdout
        assert '"totalfee":180.50' in ran.stdout
    else:
        assert len(items_of(ran.stdout)) == 2


def test_the_example_of_the_guide_is_that_of_the_contract() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)
    assert list(event_of(example)) == load(EVENTS).target("#/components/schemas/OrderChange").get("required")
