"""docs/operations: the alerts, the dashboard, and the page that says what to do."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import promql_parser as promql
import pytest
import redis
import yaml

from tests.command_steps import oms
from tests.drivers import wait_until
from tests.metric_watch import MetricWatch
from tests.observed_faults import (
    do_without_database,
    do_without_redis,
    do_without_relay,
    do_without_worker,
    lose_tasks,
    use_webhooks,
)
from tests.observed_system import ObservedSystem, observed_system
from tests.processes import ROOT
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

_DURATION = re.compile(r"([0-9]+(ms|s|m|h|d|w|y))+")


def _queries() -> list[str]:
    of_panels = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
    return [rule["expr"] for rule in ALERTS] + [
        query.replace("$__rate_interval", "1m") for query in of_panels
    ]


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


@pytest.mark.timeout(180)
def test_every_metric_that_alerts_and_dashboard_name_exists_and_moves(system: ObservedSystem) -> None:
    """While webhooks fail, and relay, worker, Redis and PostgreSQL are taken away in turn."""
    watch = MetricWatch(system, _queries())
    queue = redis.Redis.from_url(system.redis_url, socket_timeout=5)
    watch.until(lambda: watch.of_relay("relay_leading") == 1 and watch.worker, "relay and worker run", 30)
    use_webhooks(system, watch)
    do_without_relay(system, watch)
    message = do_without_worker(system, watch, queue)
    lose_tasks(system, watch)
    do_without_redis(system, watch)
    do_without_database(system, watch, queue, message)
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
