"""The service on a cluster: two APIs, two relays and two workers, with their load, and what must hold."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from stack.embedded_valkey import EmbeddedValkey, free_port
from tests.callers import EXPECTED
from tests.drivers import Api, Database, wait_until
from tests.failover.feed import Reader, Seen, read_all
from tests.failover.load import Writer, Writes
from tests.processes import ServiceProcess, migrate, run_command

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

WRITERS = 4
PAUSE_SECONDS = 0.06
EXACT_SECONDS = 90.0


class System:
    """The processes of the service, and those who use it.

    Args:
        url: of the database, which is new.
        folder: where Redis keeps its data.
        seed: of the load.

    """

    def __init__(self, url: str, folder: Path, seed: int) -> None:
        self._database_url = url
        self._folder = folder
        self._seed = seed
        self._closing = ExitStack()
        self._stop = threading.Event()
        self.processes: list[ServiceProcess] = []
        self.apis: list[Api] = []
        self.writes = Writes()
        self.seen = Seen()
        self.writers: list[Writer] = []
        self.readers: list[Reader] = []

    def __enter__(self) -> Self:
        with ExitStack() as begun:
            valkey = begun.enter_context(EmbeddedValkey(self._folder / "valkey"))
            migrate(self._database_url)
            with Database(self._database_url) as database:
                database.add_services()

            def start(module: str, port: int = 0, **settings: str) -> None:
                process = ServiceProcess(
                    module, database=self._database_url, redis=valkey.url, port=port, **settings
                )
                process.start()
                begun.callback(process.kill)
                self.processes.append(process)

            for _ in range(2):
                port = free_port()
                start("api.server", port)
                start("api.relay.main")
                start("worker.main")
                self.apis.append(begun.enter_context(Api(port)))
            for api in self.apis:
                api.wait_until_ready()
            self._begin_load()
            begun.callback(self._stop.set)
            self._closing = begun.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def _begin_load(self) -> None:
        urls = [api.url for api in self.apis]
        self.writers = [
            Writer(
                urls[number % 2 :] + urls[: number % 2],
                f"caller-{number}",
                self._seed * 100 + number,
                self._stop,
                pause=PAUSE_SECONDS,
                writes=self.writes,
            )
            for number in range(WRITERS)
        ]
        self.readers = [Reader(url, self.seen, self._stop) for url in urls]
        for thread in (*self.writers, *self.readers):
            thread.start()

    def wait_until_writes_are_back(self, since: float, seconds: float) -> None:
        """Wait until every API has confirmed a write after a moment (monotonic seconds).

        Raises:
            AssertionError: one did not in time.

        """
        wait_until(lambda: self.writes.confirmed_since(since), "both APIs confirm writes", seconds)

    def end_load(self) -> None:
        """Have everyone finish what they are doing."""
        self._stop.set()
        for thread in (*self.writers, *self.readers):
            thread.join(60)

    @property
    def answers(self) -> Counter[int | str]:
        """Count all answers, and errors of connections by their names."""
        users: tuple[Writer | Reader, ...] = (*self.writers, *self.readers)
        return sum((Counter(user.answers) for user in users), Counter[int | str]())

    def broken_promises(self) -> list[str]:
        """List what does not hold; the load has ended, and the database is available."""
        api = self.apis[0]
        for each in self.apis:
            each.wait_until_ready()
        with Database(self._database_url) as database:
            wait_until(
                lambda: database.value(
                    "SELECT (SELECT count(*) FROM order_change) = (SELECT min(position) FROM consumer_cursor)"
                ),
                "every change is summed",
                EXACT_SECONDS,
            )
            faults = [f"summary: {row}" for row in database.wrong_summaries()[:5]]
            faults += [f"too close: {row}" for row in database.too_close_pairs()[:5]]
            if not database.value(
                "SELECT count(*) = coalesce(max(position), 0) AND count(*) = count(position) "
                "FROM order_change"
            ):
                faults.append("the change log has gaps")
        last = read_all(api.url, self.seen)
        faults += [f"retracted: {change}" for change in self.seen.retracted(last)]
        faults += [f"other bytes: {fault}" for fault in self.seen.faults]
        faults += [f"lost: {loss}" for writer in self.writers for loss in writer.losses(api)]
        refused = {answer for answer in self.answers if isinstance(answer, int)} - EXPECTED - {503}
        faults += [f"answer {answer}: {self.answers[answer]} times" for answer in refused]
        faults += [f"{process.module} has ended" for process in self.processes if process.has_ended]
        verified = run_command("oms", "verify", database=self._database_url)
        if verified.returncode:
            faults.append(f"oms verify: {verified.stdout}{verified.stderr}")
        return faults

    def report(self) -> str:
        """Return what was seen, in one line."""
        repeated = sum(writer.repeated for writer in self.writers)
        known = sum(len(writer.known) for writer in self.writers)
        return (
            f"answers {dict(self.answers)}, {repeated} creates repeated, {known} orders known, "
            f"{len(self.seen)} positions seen"
        )
