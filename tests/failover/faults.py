"""What is done to a cluster: crashes, pauses, partitions and planned switchovers, chosen by a seed."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.failover.cluster import Cluster

BACK_AFTER_CRASH_SECONDS = 30.0
BACK_AFTER_SWITCHOVER_SECONDS = 5.0


def switch_over(cluster: Cluster, _rng: random.Random) -> str:
    """Have a standby become the primary, as for maintenance."""
    primary = cluster.primary
    return f"switchover: {primary.switch_over()}"


def crash_postgres(cluster: Cluster, _rng: random.Random) -> str:
    """Kill the primary's PostgreSQL."""
    primary = cluster.primary
    primary.signal(signal.SIGKILL, patroni=False, postgres=True)
    return f"PostgreSQL of {primary.name}, the primary, killed"


def crash_patroni(cluster: Cluster, rng: random.Random) -> str:
    """Kill the primary's Patroni; PostgreSQL runs on, and nobody tells it that another took over."""
    primary, seconds = cluster.primary, rng.choice((0.5, 3.0, 26.0))
    primary.signal(signal.SIGKILL, patroni=True, postgres=False)
    time.sleep(seconds)
    primary.start_if_ended()
    return f"Patroni of {primary.name}, the primary, killed for {seconds} s"


def crash_primary(cluster: Cluster, rng: random.Random) -> str:
    """Kill everything on the primary's node."""
    primary, seconds = cluster.primary, rng.choice((1.0, 10.0, 26.0))
    primary.signal(signal.SIGKILL, patroni=True, postgres=True)
    time.sleep(seconds)
    primary.start_if_ended()
    return f"{primary.name}, the primary, killed for {seconds} s"


def crash_standby(cluster: Cluster, rng: random.Random) -> str:
    """Kill everything on a standby's node."""
    standby, seconds = rng.choice(cluster.standbys), rng.choice((1.0, 5.0))
    standby.signal(signal.SIGKILL, patroni=True, postgres=True)
    time.sleep(seconds)
    standby.start_if_ended()
    return f"{standby.name}, a standby, killed for {seconds} s"


def pause_primary(cluster: Cluster, rng: random.Random) -> str:
    """Stop everything on the primary's node for a while, as a virtual machine is paused."""
    primary, seconds = cluster.primary, rng.choice((1.0, 6.0, 26.0))
    primary.signal(signal.SIGSTOP, patroni=True, postgres=True)
    time.sleep(seconds)
    primary.signal(signal.SIGCONT, patroni=True, postgres=True)
    return f"{primary.name}, the primary, paused for {seconds} s"


def pause_patroni(cluster: Cluster, rng: random.Random) -> str:
    """Stop the primary's Patroni for a while; its PostgreSQL runs on."""
    primary, seconds = cluster.primary, rng.choice((6.0, 26.0))
    primary.signal(signal.SIGSTOP, patroni=True, postgres=False)
    time.sleep(seconds)
    primary.signal(signal.SIGCONT, patroni=True, postgres=False)
    return f"Patroni of {primary.name}, the primary, paused for {seconds} s"


def pause_standby(cluster: Cluster, rng: random.Random) -> str:
    """Stop everything on a standby's node for a while."""
    standby, seconds = rng.choice(cluster.standbys), rng.choice((1.0, 6.0))
    standby.signal(signal.SIGSTOP, patroni=True, postgres=True)
    time.sleep(seconds)
    standby.signal(signal.SIGCONT, patroni=True, postgres=True)
    return f"{standby.name}, a standby, paused for {seconds} s"


def cut_primary(cluster: Cluster, rng: random.Random) -> str:
    """Cut the primary off from the network for a while."""
    primary, seconds = cluster.primary, rng.choice((2.0, 8.0, 26.0))
    primary.cut()
    time.sleep(seconds)
    primary.mend()
    return f"{primary.name}, the primary, cut off for {seconds} s"


def cut_standby(cluster: Cluster, rng: random.Random) -> str:
    """Cut a standby off from the network for a while."""
    standby, seconds = rng.choice(cluster.standbys), rng.choice((2.0, 8.0))
    standby.cut()
    time.sleep(seconds)
    standby.mend()
    return f"{standby.name}, a standby, cut off for {seconds} s"


KINDS: tuple[tuple[Callable[[Cluster, random.Random], str], int], ...] = (
    (switch_over, 30),
    (crash_postgres, 20),
    (crash_primary, 10),
    (crash_patroni, 8),
    (crash_standby, 6),
    (pause_primary, 8),
    (pause_patroni, 5),
    (pause_standby, 3),
    (cut_primary, 7),
    (cut_standby, 3),
)


def random_fault(rng: random.Random) -> Callable[[Cluster, random.Random], str]:
    """Choose what to do next."""
    return rng.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])[0]


def longest_outage(kind: Callable[[Cluster, random.Random], str]) -> float:
    """Return within how many seconds writes must be back after a fault."""
    return BACK_AFTER_SWITCHOVER_SECONDS if kind is switch_over else BACK_AFTER_CRASH_SECONDS
