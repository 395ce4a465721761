"""Fuzz a whole system of its own against the contract, for as long as it is told.

    python -m tests.fuzz [--minutes 3] [--seed 7] [--folder .local/fuzz]

Servers, API, relay and worker are started as processes, on a free port and with the sample's services.
schemathesis then follows ``schemathesis.toml`` until the time is up, and what it recorded is checked again
by ``contract.har``. The folder keeps the JUnit report, the recording and the processes' logs. A seed makes a
run's requests repeatable; their answers also depend on the clock and on how fast the machine is.

The exit status is 0 if nothing was found, 1 if something was, 2 if the fuzzing could not be done.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from stack.child_processes import StackError
from stack.embedded_postgres import EmbeddedPostgres
from stack.embedded_valkey import EmbeddedValkey
from tests.drivers import Api, Database
from tests.processes import ROOT, ServiceProcess, free_port, migrate

FUZZED = ("api.server", "api.relay", "worker.main")


def fuzz(url: str, folder: Path, *arguments: str) -> int:
    """Run schemathesis against a server, as ``schemathesis.toml`` says; return its exit status."""
    command = [
        sys.executable,
        *("-m", "schemathesis.cli", "--config-file", str(ROOT / "schemathesis.toml"), "run"),
        *(str(ROOT / "contract" / "openapi.yaml"), "--url", url),
        *("--report-junit-path", str(folder / "junit.xml"), "--report-har-path", str(folder / "traffic.har")),
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def check_recording(url: str, folder: Path) -> int:
    """Check what was recorded against the contract, independently of schemathesis; return the exit status."""
    command = [
        sys.executable,
        *("-m", "contract.har", str(folder / "traffic.har"), "--server", url, "--allow-refused"),
    ]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


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
        port = free_port()
        processes = [
            started.enter_context(ServiceProcess(module, database=postgres.url, redis=valkey.url, port=port))
            for module in FUZZED
        ]
        api = started.enter_context(Api(port))
        api.wait_until_ready()
        print(f"fuzz: seed {seed}, {minutes} min on {api.url}; reports in {folder}", flush=True)  # noqa: T201
        found = fuzz(api.url, folder, "--seed", str(seed), "--max-time", str(round(minutes * 60)))
        deviating = check_recording(api.url, folder)
        for process in processes:
            (folder / f"{process.module}.log").write_text(process.log)
    return found or deviating


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
