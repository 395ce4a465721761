"""A short, repeatable run of the fuzzer: against the application in this process, and through a socket.

``make fuzz`` runs longer. ``schemathesis.toml`` says what is checked.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
import yaml
from schemathesis import engine
from schemathesis.engine import events
from schemathesis.python.asgi import shutdown_lifespans

from api.app import create_app
from tests.fuzz import GUARDED, check_recording, fuzz, place_example_orders
from tests.fuzz_successes import NOT_FUZZED
from tests.processes import ROOT
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.drivers import Api

FEW = 2
"""Requests drawn per operation; those at the edges of every schema come on top."""

# Not with schemathesis' marks for pytest: they generate every request during collection, in any run of any
# test (15 s). The engine behind its command line generates them when it runs.


@pytest.fixture
def in_process(api: Api) -> Iterator[Any]:
    """The contract with the application to call."""
    place_example_orders(api)
    config = schemathesis.Config.from_path(ROOT / "schemathesis.toml")
    config.update(seed=1, max_failures=None)
    config.projects.default.generation.update(deterministic=True, max_examples=FEW, no_shrink=True)
    config.projects.default.update(headers={"Host": "localhost"})
    # Read by the loader in C; that of schemathesis takes seconds.
    contract = yaml.load((ROOT / "contract" / "openapi.yaml").read_text(), Loader=yaml.CSafeLoader)
    schema = schemathesis.openapi.from_dict(contract, config=config)
    schema.app = create_app()
    yield schema
    # Other tests of this process open the database's pool themselves.
    shutdown_lifespans()


def _failures(event: events.EngineEvent) -> Iterator[str]:
    if isinstance(event, events.NonFatalError):
        yield f"{event.label}: {event.value}"
    elif isinstance(event, events.FatalError):
        yield str(event.exception)
    elif isinstance(event, events.ScenarioFinished):
        for checks in event.recorder.checks.values():
            for check in checks:
                if check.failure_info is not None:
                    info = check.failure_info
                    yield f"{info.failure.operation}: {info.failure.message}\n{info.code_sample}"


def _successes(event: events.ScenarioFinished) -> Iterator[str]:
    for case_id, interaction in event.recorder.interactions.items():
        if interaction.response is not None and interaction.response.status_code < 300:
            yield event.recorder.cases[case_id].value.operation.label


@pytest.mark.timeout(240)
def test_fuzzing_the_application_in_process_finds_no_deviation_from_the_contract(in_process: Any) -> None:
    """Examples, coverage, fuzzing and sequences along links: valid requests are accepted, others refused."""
    passed: dict[str, int] = {}
    succeeded: set[str] = set()
    failures = []
    for event in engine.from_schema(in_process).execute():
        failures += list(_failures(event))
        if isinstance(event, events.ScenarioFinished):
            passed[event.phase] = passed.get(event.phase, 0) + len(event.recorder.checks)
            succeeded |= set(_successes(event))
    assert failures == []
    operations = [operation.ok() for operation in in_process.get_all_operations()]
    assert succeeded >= {
        operation.label
        for operation in operations
        if operation.definition.raw["operationId"] not in NOT_FUZZED
    }
    assert {phase for phase, count in passed.items() if count} >= {
        "examples",
        "coverage",
        "fuzzing",
        "stateful",
    }
    assert sum(passed.values()) > 500


@pytest.fixture
def guarded(api: Api, postgres_url: str, redis_url: str) -> Iterator[Api]:
    """An API that requires keys and If-Match."""
    place_example_orders(api)
    with serving(database=postgres_url, redis=redis_url, **GUARDED) as (guarded_api, _):
        yield guarded_api


@pytest.mark.timeout(240)
def test_fuzzing_a_served_api_finds_no_deviation_from_the_contract(guarded: Api, tmp_path: Path) -> None:
    """The command line against granian: HTTP itself is parsed there, which in-process calls leave out.

    With keys and If-Match, as the in-process test has neither; tests/fuzz_hooks.py checks each refusal.
    """
    brief = ("--generation-deterministic", "--seed", "1", "--no-shrink", "--max-examples", str(FEW))
    phases = ("--phases", "examples,fuzzing,stateful")
    assert fuzz(guarded.url, tmp_path, *brief, *phases, deployment="guarded") == 0
    assert (tmp_path / "junit.xml").exists()
    assert check_recording(guarded.url, tmp_path) == 0
    entries = json.loads((tmp_path / "traffic.har").read_text())["log"]["entries"]
    assert {401, 403, 428} <= {entry["response"]["status"] for entry in entries}
