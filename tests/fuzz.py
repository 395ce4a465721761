"""Fuzz a whole system of its own against the contract, for a given time.

    python -m tests.fuzz [--minutes 3] [--seed 7] [--folder .local/fuzz]

Servers, APIs, relay and worker are started as processes, on free ports and with the sample's services: one
API that allows every request, which gets two thirds of the time, and one that requires keys and
If-Match. schemathesis then follows ``schemathesis.toml`` until the time is up, and its recording is
checked again by ``contract.checks.har``. Each operation must succeed at least once. The folder keeps for each
API the JUnit report, the recording and the logs.

A seed makes a run's requests repeatable; their answers also depend on the clock and on the machine's speed.

The exit status is 0 if nothing was found, 1 if something was, 2 if the fuzzing could not be done.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.checks import har
from stack.child_processes import StackError
from stack.embedded_postgres import EmbeddedPostgres
from stack.embedded_valkey import EmbeddedValkey, free_port
from tests.builders import EXAMPLE_ORDERS, later
from tests.drivers import Api, Database
from tests.fuzz_successes import report_statuses
from tests.processes import ROOT, ServiceProcess, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BEHIND = ("api.relay.main", "worker.main")

GUARDED = {
    "OMS_API_KEYS": ",".join(
        f"{name}:{role}:{sha256(f'the key of the {name}'.encode()).hexdigest()}"
        for name, role in (("reader", "read"), ("writer", "write"))
    ),
    "OMS_REQUIRE_IF_MATCH": "yes",
}
"""The settings of a service that asks for keys and for If-Match; ``tests.fuzz_hooks`` knows the keys."""

DEPLOYMENTS: Mapping[str, tuple[Mapping[str, str], float]] = {
    "open": ({}, 2 / 3),
    "guarded": (GUARDED, 1 / 3),
}
"""What is fuzzed: the settings, and the share of the time."""


def fuzz(url: str, folder: Path, *arguments: str, deployment: str = "open") -> int:
    """Run schemathesis against a server, as ``schemathesis.toml`` says; return its exit status."""
    command = [
        sys.executable,
        *("-m", "schemathesis.cli", "--config-file", str(ROOT / "schemathesis.toml"), "run"),
        *(str(ROOT / "contract" / "openapi.yaml"), "--url", url),
        *("--report-junit-path", str(folder / "junit.xml"), "--report-har-path", str(folder / "traffic.har")),
        *arguments,
    ]
    return subprocess.run(
        command, cwd=ROOT, check=False, env={**os.environ, "ORDERS_FUZZED_AS": deployment}
    ).returncode


def check_recording(url: str, folder: Path) -> int:
    """Check the recording against the contract, independently of schemathesis; return the exit status."""
    return har.main([str(folder / "traffic.har"), "--server", url, "--allow-refused"])


def place_example_orders(api: Api) -> None:
    """Place the orders that the contract's examples name, so that requests about them can succeed."""
    for index, order_id in enumerate(EXAMPLE_ORDERS):
        api.placed_order(id=order_id, at=later(days=index))


def run(minutes: float, seed: int, folder: Path) -> int:
    """Start everything, fuzz, stop everything; return the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as started:
        servers = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="oms-fuzz-")))
        postgres = started.enter_context(EmbeddedPostgres(servers / "postgres", durable=False))
        valkey = started.enter_context(EmbeddedValkey(servers / "valkey"))
        migrate(postgres.url)
        with Database(postgres.url) as database:
            database.add_services()
        for module in BEHIND:
            started.enter_context(_process(module, folder, database=postgres.url, redis=valkey.url))
        has_failed = False
        unsuccessful = []
        for deployment, (settings, part) in DEPLOYMENTS.items():
            own = folder / deployment
            own.mkdir(exist_ok=True)
            port = free_port()
            with (
                _process("api.server", own, database=postgres.url, redis=valkey.url, port=port, **settings),
                Api(port) as api,
            ):
                api.wait_until_ready()
                if not settings:
                    place_example_orders(api)
                time = str(round(minutes * part * 60))
                print(f"fuzz: seed {seed}, {time} s on {api.url}, {deployment}; reports in {own}", flush=True)
                has_failed |= bool(
                    fuzz(api.url, own, "--seed", str(seed), "--max-time", time, deployment=deployment)
                )
                has_failed |= bool(check_recording(api.url, own))
                unsuccessful.append(report_statuses(own / "traffic.har", api.url))
    never = sorted(set.intersection(*unsuccessful))
    if never:
        print(f"fuzz: no request succeeded, so most of it was not tested: {', '.join(never)}")
    return int(has_failed or bool(never))


@contextmanager
def _process(module: str, folder: Path, **settings: Any) -> Iterator[None]:
    """Run a process of the service, and keep its log."""
    with ServiceProcess(module, **settings) as process:
        try:
            yield
        finally:
            (folder / f"{module}.log").write_text(process.log)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status is the answer."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=ROOT / ".local" / "fuzz")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    try:
        return run(options.minutes, seed, options.folder.absolute())
    except (StackError, subprocess.CalledProcessError, OSError) as error:
        sys.stderr.write(f"fuzz: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
