"""The benchmark's arithmetic, what it writes, and its load generator. `make bench` itself is run by hand."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest

from bench import main
from bench.figures import Ratio, fallen, percentile, spread
from bench.goals import BARE, CREATE, FASTAPI, GET, LIST, OURS, RATIOS
from bench.pgbench import own_statement
from bench.report import plot, table
from bench.works import Places, render
from tests.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Api, Database

PEERS = ROOT / "bench" / "peers"


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    """It is always one of the values."""
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile(values, 100) == 100
    assert percentile([7.0], 99) == 7
    assert percentile([], 99) == 0


def test_the_spread_is_relative_to_the_median() -> None:
    assert spread([90, 100, 120]) == pytest.approx(0.3)
    assert spread([5]) == 0
    assert spread([0, 0]) == 0


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """So a round in which the whole machine was slow changes nothing."""
    ratio = Ratio((OURS, CREATE), (BARE, CREATE), 0.85)
    rates = {OURS: {CREATE: [800.0, 8.0, 900.0]}, BARE: {CREATE: [1000.0, 10.0, 1000.0]}}
    assert ratio.of(rates) == pytest.approx(0.8)
    assert ratio.of({OURS: rates[OURS]}) is None, "the other was not measured"
    assert ratio.of({OURS: rates[OURS], BARE: {GET: [1.0]}}) is None


def test_a_ratio_fails_the_check_when_it_is_more_than_a_fifth_under_the_recorded_one() -> None:
    """Higher ones, new ones and ones that were not measured do not fail it."""
    recorded = {"a": 1.0, "b": 2.0, "c": 0.5, "not measured": 9.0}
    measured = {"a": 0.81, "b": 1.5, "c": 0.9, "new": 0.1}
    assert fallen(recorded, measured) == ["b: 1.50, recorded 2.00, at least 1.60 expected"]
    assert fallen(recorded, {"a": 0.8, "b": 1.6}) == []


def results() -> dict[str, Any]:
    """Return results such as ``make bench`` writes, with two contestants."""

    def measured(*rates: float) -> dict[str, list[float]]:
        other = ("p50_ms", "p99_ms", "postgres_cpu", "server_cpu", "generator_cpu")
        return {"rates": list(rates), **{name: [0.2] * len(rates) for name in other}}

    return {
        "at": "2026-11-29T12:00:00+00:00",
        "commit": "abc",
        "machine": {
            "cores": 2,
            "processor": "P & Q",
            "memory_gb": 24,
            "python": "3.11",
            "sync_ms": 0.2,
            "load_before": 0.1,
        },
        "generator": "wrk 4.1.0",
        "connections": 32,
        "processes": 2,
        "rounds": 3,
        "seconds": 2,
        "ratios": {RATIOS[0].name: {"ratio": 0.9, "goal": 0.85}, RATIOS[2].name: {"ratio": 3, "goal": 5}},
        "once": {},
        "notes": ["Something is missing."],
        "rates": {
            OURS: {CREATE: measured(900, 1000, 1200), GET: measured(2000), LIST: measured(500)},
            FASTAPI: {CREATE: measured(200, 210, 190), LIST: measured(100)},
        },
    }


def test_the_table_shows_medians_spread_ratios_and_what_is_missing() -> None:
    text = table(results())
    assert "| **this service** | 1,000 (30%) | " in text
    assert f"| {RATIOS[0].name} | 0.90 | 0.85 | met |" in text
    assert f"| {RATIOS[2].name} | 3.00 | 5 | missed |" in text
    assert "| this service | create | 0.200 | 0.200 | 0.200 | 33% |" in text
    assert "Something is missing." in text


def test_the_plot_is_a_picture_with_a_bar_for_each_rate() -> None:
    picture = ET.fromstring(plot(results()))  # noqa: S314 - written here
    bars = [each for each in picture.iter("{http://www.w3.org/2000/svg}rect") if each.get("fill") != "#fff"]
    assert len(bars) == 5
    assert max(float(bar.get("width", 0)) for bar in bars) == 420


@pytest.mark.parametrize(("measured", "status"), [(0.9, 0), (0.81, 0), (0.79, 1)])
def test_the_check_compares_with_the_recorded_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: float, status: int
) -> None:
    """Exit status 1 says that a ratio has fallen."""
    recorded = tmp_path / "latest.json"
    recorded.write_text(json.dumps({"generator": "x", "ratios": {"a": {"ratio": 1.0, "goal": 2}}}))
    monkeypatch.setattr(main, "LATEST", recorded)
    assert main.compare({"a": measured}, main.recorded_results()) == status


def test_places_are_free_and_given_once() -> None:
    places = Places()
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in places.creates(150)]
    bodies += [json.loads(request.partition(b"\r\n\r\n")[2]) for request in places.creates(150)]
    assert len({(body["calendar"], body["datetime"]) for body in bodies}) == 300
    assert {body["datetime"] for body in bodies} == {f"2040-01-01T0{hour}:00:00Z" for hour in (0, 3, 6)}


def _generate(api: Api, file: Path, *arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.generator", api.url.rpartition(":")[2], str(file), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    values: dict[str, float] = json.loads(done.stdout)
    return values


def test_the_load_generator_counts_answers_and_errors(api: Api, tmp_path: Path) -> None:
    """It sends each request once, and says how many were answered with an error."""
    order = api.placed_order()["id"]
    file = tmp_path / "requests"
    paths = [f"/orders/{order}"] * 60 + ["/orders/999999"] * 20
    file.write_bytes(b"\0".join(render("GET", path) for path in paths) + b"\0")
    outcome = _generate(api, file, "20", "--once")
    assert (outcome["requests"], outcome["errors"]) == (80, 20)
    assert outcome["broken"] == 0
    assert 0 < outcome["p50_ms"] <= outcome["p99_ms"]


def test_the_load_generator_keeps_a_rate(api: Api, tmp_path: Path) -> None:
    order = api.placed_order()["id"]
    file = tmp_path / "requests"
    file.write_bytes(render("GET", f"/orders/{order}") + b"\0")
    outcome = _generate(api, file, "2", "--rate", "50")
    assert 60 <= outcome["requests"] <= 101


def test_the_statement_for_pgbench_creates_an_order(api: Api, database: Database) -> None:
    """The service's own, with pgbench's variables in place of its parameters."""
    assert api.client.put("/calendars/p7", json={}).status_code == 201
    statement = own_statement().works[CREATE]
    assert len(database.rows(statement.replace(":place", "1").replace(":client_id", "7"))) == 1
    (order,) = api.every_order()
    assert (order["datetime"], order["calendar"], order["totalfee"]) == (
        "2040-01-01T03:00:00.000Z",
        "p7",
        250.5,
    )


def test_the_peers_dependencies_are_locked_apart_from_the_products() -> None:
    """With hashes, and without the address of a registry."""
    lock = (PEERS / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    assert "index-url" not in lock
    modules = json.loads((PEERS / "express_sequelize" / "package-lock.json").read_text())["packages"]
    installed = [module for path, module in modules.items() if path]
    assert all(module["integrity"] and "resolved" not in module for module in installed)
    for name in ("requirements.lock", "requirements-local.lock"):
        assert not {"django", "fastapi", "sqlalchemy"} & {
            line.partition("==")[0] for line in (ROOT / name).read_text().splitlines()
        }
