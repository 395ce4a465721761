"""``make bench``: this service beside the same API written in other ways, on this machine.

    python -m bench.main            # BENCH_SECONDS (360) is how long it may take, if three rounds fit
    python -m bench.main --check    # at most 90 s: compare with bench/results/latest.json

It starts every server itself: one PostgreSQL for all, with a database for each contestant, and a
Redis-compatible one. It checks that all do the same work. In each round every work of every contestant is
measured once; then, for this service, what follows a commit. It writes latest.json, latest.md and latest.svg
into bench/results.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contestants import PROCESSES, create_databases, ours, peers_of
from bench.figures import TOLERANCE, fallen
from bench.generator import CONNECTIONS
from bench.goals import BARE, CONTESTANTS, CREATE, EXPRESS, OURS, RATIOS
from bench.import_rate import measure_import
from bench.load import generator
from bench.pgbench import own_statement, plain_statements
from bench.pipeline import Pipeline
from bench.processes import BenchError
from bench.report import plot, table
from bench.rounds import Rounds
from bench.same_work import check_same_work
from bench.start_up import measure_start
from bench.system import commit, machine, servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stack.embedded_postgres import EmbeddedPostgres
    from stack.embedded_valkey import EmbeddedValkey

RESULTS = Path(__file__).parent / "results"
LATEST = RESULTS / "latest.json"

_DEFAULT_SECONDS = 360
_CHECK_SECONDS = 85
_AFTER_ROUNDS_SECONDS = 63
"""For what follows the rounds: pipeline, import, two starts of the system, and the end of all servers."""
_LEAST_ROUNDS = 3
_TWO_SECONDS_FROM = 240
"""With at least this budget, each measurement takes two seconds instead of one."""


def run(began: float) -> dict[str, Any]:
    """Measure everything within the budget, and return the results."""
    load = os.getloadavg()[0]
    budget = int(os.environ.get("BENCH_SECONDS") or _DEFAULT_SECONDS)
    with servers() as (postgres, valkey, folder):
        with _started(postgres, valkey, folder, 2 if budget >= _TWO_SECONDS_FROM else 1) as rounds:
            rounds.run_until(began + budget - _AFTER_ROUNDS_SECONDS, _LEAST_ROUNDS)
            print("relay and worker", flush=True)
            create = statistics.median(rounds.rates[OURS][CREATE])
            once = Pipeline(rounds.contestants[0], postgres, valkey.url, folder).measure(create)
        print("make import", flush=True)
        once |= measure_import(postgres, valkey.url, folder)
        print("make run", flush=True)
        once |= measure_start(folder)
        return _results(rounds, once, {**machine(folder), "load_before": load})


def check(began: float) -> int:
    """Measure the ratios of the quickest contestants, and compare them; return the exit status."""
    recorded = recorded_results()
    if recorded["generator"] != generator():
        print(
            f"NOTE: recorded with {recorded['generator']}, and here is {generator()}: ratios differ by that"
        )
    with (
        servers() as (postgres, valkey, folder),
        _started(postgres, valkey, folder, 1, peers=(BARE,)) as rounds,
    ):
        rounds.run_until(began + _CHECK_SECONDS, _LEAST_ROUNDS)
    return compare(_ratios(rounds), recorded)


def recorded_results() -> dict[str, Any]:
    """Return what `make bench` has written.

    Raises:
        BenchError: it has written nothing.

    """
    try:
        recorded: dict[str, Any] = json.loads(LATEST.read_text())
    except FileNotFoundError:
        raise BenchError(f"{LATEST} is missing: run `make bench`, and commit what it writes") from None
    return recorded


def compare(measured: dict[str, float], recorded: dict[str, Any]) -> int:
    """Print all ratios beside the recorded ones; return 1 if one has fallen, otherwise 0."""
    before = {name: each["ratio"] for name, each in recorded["ratios"].items()}
    for name, value in measured.items():
        print(f"  {name}: {value:.2f}" + (f", recorded {before[name]:.2f}" if name in before else ""))
    lines = fallen(before, measured)
    print("\n".join(lines) or f"no ratio is more than {TOLERANCE:.0%} under the recorded one")
    return 1 if lines else 0


@contextmanager
def _started(
    postgres: EmbeddedPostgres,
    valkey: EmbeddedValkey,
    folder: Path,
    seconds: int,
    peers: tuple[str, ...] | None = None,
) -> Iterator[Rounds]:
    """Run this service and the peers, all that this machine can run if none are named, for the block."""
    create_databases(postgres)
    statements = [own_statement()] if peers else [plain_statements(), own_statement()]
    contestants = [ours(postgres, valkey.url, folder), *peers_of(postgres, folder, peers)]
    try:
        for contestant in contestants:
            contestant.server.start()
        for contestant in contestants:
            contestant.server.wait_for(contestant.port, f"/orders/{contestant.orders[0].id}")
            check_same_work(contestant)
        yield Rounds(contestants, statements, postgres, folder, seconds)
    finally:
        for contestant in contestants:
            contestant.server.stop()


def _ratios(rounds: Rounds) -> dict[str, float]:
    rates = rounds.rates
    return {ratio.name: value for ratio in RATIOS if (value := ratio.of(rates)) is not None}


def _results(rounds: Rounds, once: dict[str, float], machine: dict[str, object]) -> dict[str, Any]:
    goals = {ratio.name: ratio.goal for ratio in RATIOS}
    notes = [] if EXPRESS in rounds.rates else [f"{EXPRESS} is missing: there is no Node on that machine."]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine,
        "generator": generator(),
        "connections": CONNECTIONS,
        "processes": PROCESSES,
        "rounds": rounds.count,
        "seconds": rounds.seconds,
        "ratios": {
            name: {"ratio": round(ratio, 3), "goal": goals[name]} for name, ratio in _ratios(rounds).items()
        },
        "once": {name: round(value, 3) for name, value in once.items()},
        "notes": notes,
        "rates": {
            name: {
                work: {key: [round(value, 4) for value in values] for key, values in asdict(measured).items()}
                for work, measured in by_work.items()
            }
            for name in CONTESTANTS
            if (by_work := rounds.measured.get(name))
        },
    }


def main(arguments: list[str]) -> int:
    """Run; the exit status is 0 if all is well, 1 if a ratio has fallen, 2 if nothing could be measured."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all servers are stopped
    try:
        if arguments == ["--check"]:
            return check(began)
        results = run(began)
    except BenchError as error:
        print(f"make bench: {error}", file=sys.stderr)
        return 2
    RESULTS.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(results, indent=1) + "\n")
    LATEST.with_suffix(".md").write_text(table(results))
    LATEST.with_suffix(".svg").write_text(plot(results))
    print(table(results))
    print(f"written to {RESULTS} after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
