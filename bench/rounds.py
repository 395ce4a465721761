"""The rounds: in each, every work of every contestant is measured once, one work after the other."""

from __future__ import annotations

import http.client
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from bench import works
from bench.databases import fetch
from bench.goals import CREATE, DELETE, GET, LIST, NOT_MODIFIED, OURS, PATCH, PUT, REFUSED, WORKS
from bench.load import Outcome, children_cpu, send
from bench.pgbench import CLIENTS, SingleStatements
from bench.processes import BenchError, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.contestants import Contestant
    from stack.embedded_postgres import EmbeddedPostgres

MOST_PER_SECOND = 8_000
"""Requests that are prepared for each second of a work whose requests may be sent only once."""

_PAUSE_SECONDS = 0.1
"""Between two measurements: what the one before left to do would count as the next one's."""


@dataclass
class Measured:
    """All measurements of one work of one contestant, a value for each round."""

    rates: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    postgres_cpu: list[float] = field(default_factory=list)
    """Like the next two: processors' time in ms per request."""
    server_cpu: list[float] = field(default_factory=list)
    generator_cpu: list[float] = field(default_factory=list)


class Rounds:
    """Measures contestants in turn, until the time is over."""

    def __init__(
        self,
        contestants: Sequence[Contestant],
        statements: Sequence[SingleStatements],
        postgres: EmbeddedPostgres,
        folder: Path,
        seconds: int,
    ) -> None:
        self.contestants = contestants
        self._statements = statements
        self._postgres = postgres
        self._folder = folder
        self.seconds = seconds
        self._places = {contestant.name: works.Places() for contestant in contestants}
        self._random = random.Random(11)
        self.measured: dict[str, dict[str, Measured]] = defaultdict(dict)
        self.count = 0

    @property
    def rates(self) -> dict[str, dict[str, list[float]]]:
        """All rates, by contestant and work."""
        return {
            name: {work: measured.rates for work, measured in by_work.items()}
            for name, by_work in self.measured.items()
        }

    def run_until(self, deadline: float, least: int) -> None:
        """Run rounds until another one would end after the deadline (`time.monotonic`), but at least some."""
        longest = 0.0
        while self.count < least or time.monotonic() + longest <= deadline:
            began = time.monotonic()
            self.run_once()
            longest = max(longest, time.monotonic() - began)

    def run_once(self) -> None:
        """Run one round. Those with the same work follow each other, in an order that changes."""
        for work in WORKS:
            taking_part: list[Contestant | SingleStatements] = [
                *(each for each in self.contestants if work in each.works),
                *(each for each in self._statements if work in each.works),
            ]
            for one in self._random.sample(taking_part, len(taking_part)):
                if isinstance(one, SingleStatements):
                    self._measure_statement(one, work)
                else:
                    self._measure_server(one, work)
        self.count += 1

    def _measure_server(self, contestant: Contestant, work: str) -> None:
        requests, once = self._requests(contestant, work)
        time.sleep(_PAUSE_SECONDS)
        before = self._postgres_cpu(), cpu_seconds(contestant.server.process)
        outcome = send(
            contestant.port,
            requests,
            self._folder / "requests",
            self.seconds,
            refused=work == REFUSED,
            once=once,
        )
        after = self._postgres_cpu(), cpu_seconds(contestant.server.process)
        self._record(contestant.name, work, outcome, after[0] - before[0], after[1] - before[1])

    def _measure_statement(self, statements: SingleStatements, work: str) -> None:
        time.sleep(_PAUSE_SECONDS)
        before, generator_before = self._postgres_cpu(), children_cpu()
        rate = statements.run(work, self._postgres, self._folder, self.seconds)
        outcome = Outcome(
            rate * self.seconds, rate, CLIENTS / rate * 1e3, 0.0, children_cpu() - generator_before
        )
        self._record(statements.name, work, outcome, self._postgres_cpu() - before, 0.0)

    def _record(self, name: str, work: str, outcome: Outcome, postgres_cpu: float, server_cpu: float) -> None:
        measured = self.measured[name].setdefault(work, Measured())
        measured.rates.append(outcome.rate)
        measured.p50_ms.append(outcome.p50_ms)
        measured.p99_ms.append(outcome.p99_ms)
        measured.postgres_cpu.append(postgres_cpu / outcome.requests * 1e3)
        measured.server_cpu.append(server_cpu / outcome.requests * 1e3)
        measured.generator_cpu.append(outcome.generator_cpu / outcome.requests * 1e3)
        print(f"  round {self.count + 1}  {work:14}  {name:32} {outcome.rate:9,.0f} /s", flush=True)

    def _requests(self, contestant: Contestant, work: str) -> tuple[list[bytes], bool]:
        """Return a work's requests, and whether each may be sent only once."""
        orders = contestant.orders
        most = MOST_PER_SECOND * self.seconds
        if work == CREATE:
            return self._places[contestant.name].creates(most), True
        if work == DELETE:
            return works.deletes(_created_ids(contestant, most)), True
        if work == NOT_MODIFIED:
            return works.conditional_gets(_tags(contestant, [order.id for order in orders[:100]])), False
        make = {
            REFUSED: works.refused_creates,
            GET: works.gets,
            LIST: works.lists,
            PUT: works.replacements,
            PATCH: works.patches,
        }[work]
        return list(make(orders)), False

    def _postgres_cpu(self) -> float:
        process = self._postgres.process
        if process is None:
            raise BenchError("PostgreSQL does not run")
        return cpu_seconds(psutil.Process(process.pid))


def _created_ids(contestant: Contestant, most: int) -> list[str]:
    if contestant.name != OURS:
        raise BenchError(f"{contestant.name} deletes nothing")
    query = "SELECT id::text FROM orders WHERE datetime >= $1 ORDER BY id LIMIT $2"
    return [row["id"] for row in fetch(contestant.database_url, query, works.PLACES_FROM, most)]


def _tags(contestant: Contestant, ids: Sequence[str]) -> list[tuple[str, str]]:
    """Return the orders' paths with their entity tags, and check that a read with them is answered 304."""
    connection = http.client.HTTPConnection("127.0.0.1", contestant.port, timeout=10)
    tags = []
    try:
        for order_id in ids:
            path = f"/orders/{order_id}"
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            tag = answer.getheader("ETag")
            if tag is None:
                raise BenchError(f"{path} was answered {answer.status} without an entity tag")
            tags.append((path, tag))
        connection.request("GET", tags[0][0], headers={"If-None-Match": tags[0][1]})
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.NOT_MODIFIED:
            raise BenchError(f"a read with the order's entity tag was answered {answer.status}")
    finally:
        connection.close()
    return tags
