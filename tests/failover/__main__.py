"""Failover under load: ``python -m tests.failover --minutes 60 [--seed 1]``; ``make failover`` runs it.

Three nodes of Patroni and PostgreSQL with quorum synchronous replication, etcd and haproxy, with the files
of ``docs/operations/patroni``; before them two APIs, two relays and two workers under random load. Nodes are
killed, paused, cut off and switched over. Exit status 0: nothing acknowledged was lost, no position that
anybody saw was retracted or had other bytes, the rule held, the summaries are exact, writes were back in
time, and no answer was a 5xx other than 503. 1: something of that does not hold, and is printed. 2: something
that it needs is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tests.failover.cluster import Cluster
from tests.failover.faults import (
    BACK_AFTER_CRASH_SECONDS,
    KINDS,
    crash_postgres,
    longest_outage,
    random_fault,
    switch_over,
)
from tests.failover.programs import enter_network_of_its_own, missing
from tests.failover.system import System

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Fault = Callable[[Cluster, random.Random], str]

CALM_SECONDS = 2.0
"""Load without a fault before each."""


def run(cluster: Cluster, system: System, faults: Iterator[Fault], rng: random.Random) -> list[str]:
    """Do one fault after the other, each to a whole cluster; return what does not hold in the end."""
    broken: list[str] = []
    outages: defaultdict[str, list[float]] = defaultdict(list)
    for fault in faults:
        try:
            outages[fault.__name__].append(_survive(cluster, system, fault, rng))
        except AssertionError as error:
            broken.append(str(error))
            break
        if outages[fault.__name__][-1] > longest_outage(fault):
            broken.append(f"{fault.__name__}: writes were away for {outages[fault.__name__][-1]:.1f} s")
    system.end_load()
    for name, seconds in outages.items():
        if seconds:
            away = f"{statistics.median(seconds):.1f} s, at most {max(seconds):.1f} s"
            print(f"{name}: {len(seconds)} times, writes away {away}")
    print(f"{sum(map(len, outages.values()))} faults; {system.report()}", flush=True)
    return broken + system.broken_promises()


def _survive(cluster: Cluster, system: System, fault: Fault, rng: random.Random) -> float:
    """Do something to a whole cluster, and wait until it is whole again; return how long writes were away.

    Raises:
        AssertionError: writes are not back in time, or the cluster is not whole again.

    """
    time.sleep(CALM_SECONDS * rng.random())
    began = time.monotonic()
    limit = longest_outage(fault)
    system.wait_until_writes_are_back(began, limit)
    what = fault(cluster, rng)
    healed = time.monotonic()
    # First the writes: right after a crash the others do not know of it.
    system.wait_until_writes_are_back(healed, BACK_AFTER_CRASH_SECONDS)
    cluster.wait_until_whole()
    whole = time.monotonic()
    system.wait_until_writes_are_back(whole, limit)
    outage = system.writes.longest_outage(began, time.monotonic())
    print(
        f"{datetime.now(UTC):%H:%M:%S} {what}; writes away {outage:.1f} s, "
        f"whole {whole - healed:.1f} s after it (load {os.getloadavg()[0]:.0f})",
        flush=True,
    )
    return outage


def _faults_for(minutes: float, rng: random.Random) -> Iterator[Fault]:
    until = time.monotonic() + minutes * 60
    while time.monotonic() < until:
        yield random_fault(rng)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="tests.failover", description="Failover under load.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--once", action="store_true", help="one crash, one switchover")
    parser.add_argument("--keep-logs", action="store_true", help="also if everything holds")
    parser.add_argument("--only", choices=sorted(kind.__name__ for kind, _ in KINDS), help="only it")
    options = parser.parse_args()
    if lacking := missing():
        print("\n".join(f"make failover: {what}" for what in lacking), file=sys.stderr)
        return 2
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}: python -m tests.failover --minutes {options.minutes:g} --seed {seed}", flush=True)
    rng = random.Random(seed)
    try:
        enter_network_of_its_own()
    except PermissionError as error:
        print(f"make failover: {error.strerror}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="oms-failover-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with Cluster(folder) as cluster, System(cluster.url, folder, seed) as system:
            faults: Iterator[Fault] = iter((crash_postgres, switch_over))
            if not options.once:
                faults = _faults_for(options.minutes, rng)
            if options.only:
                (chosen,) = (kind for kind, _ in KINDS if kind.__name__ == options.only)
                faults = (chosen for _ in faults)
            try:
                broken = run(cluster, system, faults, rng)
            except AssertionError as error:  # the summaries are not complete in time
                broken = [str(error)]
            if broken or options.keep_logs:
                _keep_logs(cluster, system, folder)
    print(json.dumps(broken, indent=1, ensure_ascii=False) if broken else "everything held")
    return 1 if broken else 0


def _keep_logs(cluster: Cluster, system: System, folder: Path) -> None:
    """Copy the logs out of a folder that is about to be removed."""
    kept = Path(tempfile.mkdtemp(prefix="oms-failover-logs-"))
    for node in cluster.nodes:
        (kept / f"{node.name}.log").write_bytes(node.log.read_bytes())
    for log in folder.glob("*.log"):
        (kept / log.name).write_bytes(log.read_bytes())
    for number, process in enumerate(system.processes):
        (kept / f"{process.module}-{number}.log").write_text(process.log)
    print(f"logs: {os.fspath(kept)}")


if __name__ == "__main__":
    sys.exit(main())
