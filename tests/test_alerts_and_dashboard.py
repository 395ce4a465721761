"""docs/operations: the alerts, the dashboard, and the page that says what to do."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import promql_parser as promql
import psutil
import pytest
import redis
import yaml

from tests.builders import later
from tests.command_steps import oms
from tests.drivers import wait_until
from tests.observed_system import ObservedSystem, observed_system
from tests.processes import ROOT
from tests.scrapes import Metrics, read_metrics, scrape
from tests.webhook_receiver import Answer, Receiver
from tests.webhook_steps import subscribe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = ROOT / "docs" / "operations"
RULES = FOLDER / "alerts.yaml"
UNIT_TESTS = ROOT / "tests" / "alerts.test.yaml"
RUNBOOK = (FOLDER / "alerts.md").read_text()
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]

OF_PROMETHEUS = {"up"}
CONSTANT = {"build_info"}
"""Metrics whose one value never changes: only their labels say something."""

TASKS = "worker_task_duration_seconds_count"

_DURATION = re.compile(r"([0-9]+(ms|s|m|h|d|w|y))+")
_MATCHES = {
    "MatchOp.Equal": lambda value, wanted: value == wanted,
    "MatchOp.NotEqual": lambda value, wanted: value != wanted,
    "MatchOp.Re": lambda value, wanted: re.fullmatch(wanted, value) is not None,
    "MatchOp.NotRe": lambda value, wanted: re.fullmatch(wanted, value) is None,
}

Selector = tuple[str, tuple[tuple[str, str, str], ...]]


def _queries() -> list[str]:
    of_panels = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
    return [rule["expr"] for rule in ALERTS] + [
        query.replace("$__rate_interval", "1m") for query in of_panels
    ]


def _selectors(query: str) -> set[Selector]:
    """Return the metrics that a query names, each with the conditions on its labels."""
    found: set[Selector] = set()

    def visit(node: Any) -> bool:
        if isinstance(node, promql.VectorSelector):
            conditions = ((str(each.op), each.name, each.value) for each in node.matchers.matchers)
            found.add((str(node.name), tuple(conditions)))
        return True

    promql.walk(promql.parse(query), visit)
    return found


def _values(metrics: Metrics, selector: Selector) -> dict[frozenset[tuple[str, str]], float]:
    name, conditions = selector
    return {
        labels: value
        for (sample, labels), value in metrics.items()
        if sample == name
        and all(_MATCHES[op](dict(labels).get(label, ""), wanted) for op, label, wanted in conditions)
    }


def test_the_rules_have_the_structure_that_prometheus_reads() -> None:
    """Each query and each duration can be parsed, nothing is misspelt, and no name is used twice."""
    assert set(yaml.safe_load(RULES.read_text())) == {"groups"}
    assert len({group["name"] for group in GROUPS}) == len(GROUPS)
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
    for group in GROUPS:
        assert group.keys() == {"name", "rules"}
    for rule in ALERTS:
        assert {"alert", "expr", "labels", "annotations"} <= rule.keys() <= {
            *("alert", "expr", "for", "labels", "annotations"),
        }, rule  # fmt: skip
        assert _DURATION.fullmatch(rule.get("for", "1m")), rule
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "runbook_url"}
        assert isinstance(promql.parse(rule["expr"]), promql.BinaryExpr), "it compares"
        assert rule["annotations"]["summary"].count("{{") == rule["annotations"]["summary"].count("}}")


def test_each_alert_has_a_section_that_says_what_to_do() -> None:
    """In the same order, and no section is about an alert that does not exist."""
    headings = re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE)
    assert headings == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        assert rule["annotations"]["runbook_url"] == f"docs/operations/alerts.md#{rule['alert'].lower()}"


def test_each_alert_has_a_unit_test_that_sees_it_fire() -> None:
    """The tests themselves are promtool's."""
    text = UNIT_TESTS.read_text()
    assert set(re.findall(r'alertname="(\w+)"', text)) == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("arguments", [("check", "rules", RULES), ("test", "rules", UNIT_TESTS)])
def test_promtool_accepts_the_rules_and_their_unit_tests(arguments: tuple[Any, ...]) -> None:
    """CI has it; elsewhere it is in Prometheus's releases, and in Debian's package `prometheus`."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on this machine")
    done = subprocess.run([promtool, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_can_be_imported() -> None:
    """Every panel has a place, an explanation, a unit and queries that can be parsed."""
    assert DASHBOARD["schemaVersion"] >= 39
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == [
        *("Now", "Requests", "Latency", "Change log", "Summaries", "Webhooks", "Queue", "Database"),
    ]  # fmt: skip
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not taken & cells, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        for source in (panel, *panel["targets"]):
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            promql.parse(target["expr"].replace("$__rate_interval", "1m"))


@pytest.fixture(scope="module")
def system(own_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObservedSystem]:
    """All processes, with a queue that is full with eight messages."""
    folder = tmp_path_factory.mktemp("system")
    with observed_system(own_database_url, folder, OMS_RELAY_BATCH="1", OMS_RELAY_WINDOW="2") as system:
        yield system


class _Watch:
    """Reads all metrics again and again, and remembers which were seen to have several values."""

    def __init__(self, system: ObservedSystem) -> None:
        self._system = system
        self._selectors = {selector for query in _queries() for selector in _selectors(query)}
        self._seen: dict[Selector, list[dict[frozenset[tuple[str, str]], float]]] = {}
        self.api, self.relay, self.worker = Metrics(), Metrics(), Metrics()
        """What was read last; nothing of a process that did not answer."""

    def look(self) -> None:
        """Read the metrics of the processes that answer."""
        every = Metrics()
        self.api = read_metrics(self._system.api.client.get("/metrics").text)
        every.update(self.api)
        for port, kept in ((self._system.relay_port, self.relay), (self._system.worker_port, self.worker)):
            with suppress(httpx.HTTPError):
                kept.clear()
                kept.update(scrape(port))
                every.update(kept)
        for selector in self._selectors:
            values = _values(every, selector)
            # A series that appears has moved too, unless its process did not answer before.
            if values or (self.relay and self.worker):
                self._seen.setdefault(selector, []).append(values)

    def until(self, condition: Any, what: str, seconds: float = 15) -> None:
        """Read until a condition holds."""

        def holds() -> bool:
            self.look()
            return bool(condition())

        wait_until(holds, what, seconds, 0.1)

    def of_relay(self, name: str, **labels: str) -> float:
        """Return what the relay said last."""
        return self.relay.total(name, **labels)

    def of_worker(self, name: str, **labels: str) -> float:
        """Return what the worker said last."""
        return self.worker.total(name, **labels)

    def missing(self) -> list[str]:
        """Name the metrics that were never there."""
        seen = {selector for selector, values in self._seen.items() if any(values)}
        return sorted(name for name, _ in self._selectors - seen if name not in OF_PROMETHEUS)

    def unmoved(self) -> list[str]:
        """Name the metrics that had one value only."""
        return sorted(
            f"{name}{[f'{label}={value}' for _, label, value in conditions]}"
            for (name, conditions), seen in self._seen.items()
            if all(values == seen[0] for values in seen) and name not in CONSTANT | OF_PROMETHEUS
        )


@contextmanager
def _a_function_missing(system: ObservedSystem, name: str) -> Iterator[None]:
    system.database.run_script(f"ALTER FUNCTION {name} RENAME TO {name}_away")
    try:
        yield
    finally:
        system.database.run_script(f"ALTER FUNCTION {name}_away RENAME TO {name}")


@contextmanager
def _database_away(system: ObservedSystem) -> Iterator[None]:
    """PostgreSQL ends the sessions of the service, and refuses new ones."""
    name = system.database.value("SELECT current_database()")
    _administer(system, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        system.database.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'oms'"
        )
        yield
    finally:
        _administer(system, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def _administer(system: ObservedSystem, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(system.database_url, database="postgres")
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def _make_a_proof_due(system: ObservedSystem) -> None:
    """And a summary wrong, which it finds."""
    system.database.rows("UPDATE fee_summary SET orders = orders + 1")
    system.database.rows(
        "UPDATE fee_summary_proof SET asked_at = now() - interval '3 days', position = 0, orders = 0, "
        "finished_at = now() - interval '2 days', differing = 0, seconds = 0"
    )


def _use_webhooks(system: ObservedSystem, watch: _Watch) -> None:
    """Have one that works, one that fails and one that is gone."""
    with Receiver() as works, Receiver() as fails, Receiver() as is_gone:
        fails.answer = lambda _: Answer(500)
        is_gone.answer = lambda _: Answer(410)
        for receiver in (works, fails, is_gone):
            subscribe(system.api, receiver.url)
        for n in range(3):
            system.api.placed_order(at=later(days=n))
        watch.until(lambda: len(works.received) == 3 and is_gone.received, "webhooks are sent to")
    watch.until(lambda: watch.of_worker("webhooks_disabled_total") == 1, "one is disabled")
    system.wait_until_summed()


def _do_without_relay(system: ObservedSystem, watch: _Watch) -> None:
    """Have changes without a position, and then a proof that finds a wrong summary."""
    system.relay.stop()
    system.api.placed_order(at=later(days=10))
    _make_a_proof_due(system)
    for _ in range(3):
        watch.look()
        time.sleep(0.3)
    system.relay.start()
    differ = "SELECT differing > 0 FROM fee_summary_proof"
    watch.until(lambda: system.database.value(differ), "a proof runs")


def _do_without_worker(system: ObservedSystem, watch: _Watch, queue: redis.Redis) -> bytes:
    """Have changes that nobody applies, until the queue is full; return a message of the queue."""
    system.worker.stop()
    for n in range(20, 26):
        system.api.placed_order(at=later(days=n))
    watch.until(lambda: watch.of_relay("relay_publish_failures_total", reason="full") > 0, "it is full", 30)
    message: Any = queue.lindex("order-change-batches", 0)
    queue.lpush("order-change-batches", "nonsense")
    system.worker.start()
    watch.until(lambda: watch.of_worker("worker_messages_dropped_total") == 1, "nonsense is dropped", 30)
    return bytes(message)


def _lose_tasks(system: ObservedSystem, watch: _Watch) -> None:
    """Have one fail, and another one end with its process."""
    with _a_function_missing(system, "fee_effects"):
        system.api.placed_order(at=later(days=30))
        watch.until(lambda: watch.of_worker(TASKS, outcome="failed") > 0, "it fails")
    system.wait_until_summed()
    system.database.rows("BEGIN")
    system.database.rows("SELECT FROM consumer_cursor WHERE consumer = 'fee_summaries' FOR UPDATE")
    system.api.placed_order(at=later(days=31))
    blocked = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"
    watch.until(lambda: system.database.value(blocked), "it waits")
    for child in psutil.Process(system.worker.pid).children(recursive=True):
        child.kill()
    system.database.rows("ROLLBACK")
    watch.until(lambda: watch.of_worker("worker_tasks_lost_total") > 0, "it is lost")


def _do_without_redis(system: ObservedSystem, watch: _Watch) -> None:
    """Have relay and worker look for it."""
    system.valkey.stop(grace=1)
    system.api.placed_order(at=later(days=40))
    watch.until(lambda: watch.of_worker("worker_queue_failures_total") > 0, "the worker can't read")
    failures = "relay_publish_failures_total"
    watch.until(lambda: watch.of_relay(failures, reason="unavailable") > 0, "the relay can't publish")
    system.valkey.start()
    watch.until(lambda: watch.api.of("redis_up") == 1, "Redis is back")
    system.wait_until_summed()


def _do_without_database(system: ObservedSystem, watch: _Watch, queue: redis.Redis, message: bytes) -> None:
    """Have every process look for it."""
    with _database_away(system):
        watch.until(lambda: system.api.client.get("/orders").status_code == 503, "orders can't be read")
        watch.until(lambda: watch.of_relay("relay_database_failures_total") > 0, "the relay starts over")
        queue.lpush("order-change-batches", message)
        watch.until(lambda: watch.of_worker(TASKS, outcome="unavailable") > 0, "a task can't apply it")
    watch.until(lambda: watch.api.of("database_up") == 1, "PostgreSQL is back")
    watch.until(lambda: watch.of_relay("relay_leading") == 1, "the relay works again")


@pytest.mark.timeout(180)
def test_every_metric_that_alerts_and_dashboard_name_exists_and_moves(system: ObservedSystem) -> None:
    """While webhooks fail, and relay, worker, Redis and PostgreSQL are taken away in turn."""
    watch = _Watch(system)
    queue = redis.Redis.from_url(system.redis_url, socket_timeout=5)
    watch.until(lambda: watch.of_relay("relay_leading") == 1 and watch.worker, "relay and worker run", 30)
    _use_webhooks(system, watch)
    _do_without_relay(system, watch)
    message = _do_without_worker(system, watch, queue)
    _lose_tasks(system, watch)
    _do_without_redis(system, watch)
    _do_without_database(system, watch, queue, message)
    assert watch.missing() == []
    assert watch.unmoved() == []


def _commands(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.+?)```", RUNBOOK, re.DOTALL)


def test_the_commands_of_the_page_do_what_it_says(system: ObservedSystem, tmp_path: Path) -> None:
    """SQL and commands run, and the lock that it names is the one that the relay has."""
    activity, locks = _commands("sql")
    assert isinstance(system.database.rows(activity), list)
    wait_until(lambda: len(system.database.rows(locks)) == 1, "one relay works")
    webhook = subscribe(system.api, "http://127.0.0.1:1024/")
    environment = {
        "OMS_SERVER": system.api.url,
        "OMS_DATABASE_URL": system.database_url,
        "OMS_REDIS_URL": system.valkey.url,
        "STATE_DIR": str(tmp_path),
    }
    ran = set()
    for line in (line for block in _commands("sh") for line in block.splitlines()):
        words = shlex.split(
            line.replace("$WEBHOOK", webhook["id"]).replace("http://127.0.0.1:8000", system.api.url)
        )
        if words[0] == "curl":
            done = subprocess.run([*words, "--fail"], capture_output=True, text=True, check=False)
        else:
            assert words[0] == "oms", line
            done = oms(*words[1:], "--json", **environment)
            ran.add(words[1])
        # Of these two, 1 means that they found something, as the tests before left it.
        assert done.returncode in ((0, 1) if words[1] in {"doctor", "verify"} else (0,)), line + done.stderr
        assert "error" not in json.loads(done.stdout)
    assert ran == {"doctor", "verify", "webhook", "replay"}
