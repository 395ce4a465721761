"""The standbys of ``OMS_DATABASE_READ_URL``: which of them answers, and how far it is.

Each host has a pool of its own, so that what was seen at one is never looked for at another. A connection
beside the pool asks it twice a second; one that fails, stops answering or is too far behind is not used until
it answers again. Statements that wait for it then go to the primary.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import structlog

from shared.database.engine import DB, Engine
from shared.database.read_places import (
    FALLBACKS,
    READ_PLACE,
    READS,
    STANDBY_LAG,
    ReadPlace,
    StandbyFailedError,
    leave_standby,
)
from shared.database.session_settings import open_standby_session
from shared.database.sessions import DRIVER_ERRORS, Session
from shared.database.unavailability import DatabaseUnavailableError
from shared.database.url import hosts_of
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

log = structlog.get_logger("standbys")

PROBE_SECONDS = 0.5
"""The pause between two questions to a standby."""

PROBE_TIMEOUT_SECONDS = 1.0
"""A standby that has not answered for so long is not used."""

REST_SECONDS = 1.0
"""How long a standby that failed is left alone."""

FIRST_PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 0.1
"""The pauses between two questions of one request whether a standby has what it needs; each is longer."""

DEFAULT_WAIT_SECONDS = 0.2
"""How long a read waits for a standby that does not show yet what it needs, unless it says ``wait``."""

MAX_WAITING_REQUESTS = 100
"""Requests of one process that may wait for a standby; any more go to the primary at once."""

# The relay writes led_at every two seconds, so an idle system shows that too.
_PROBE = """
SELECT last_position,
    extract(epoch FROM clock_timestamp() - greatest(led_at, pg_last_xact_replay_timestamp()))::float8 AS lag
FROM change_log WHERE id = 1
"""

# A deletion is the version after the last. One transaction's changes become visible together, so any of them
# stands for all.
_HAS_ALL = """
SELECT l.last_position,
    c.position >= $4 AND l.last_position >= $3 AND NOT EXISTS (
        SELECT FROM unnest($1::bigint[], $2::bigint[]) AS needed (id, version)
        WHERE NOT EXISTS (SELECT FROM orders AS o WHERE o.id = needed.id AND o.version >= needed.version)
          AND NOT EXISTS (
              SELECT FROM deleted_order AS d WHERE d.id = needed.id AND d.version >= needed.version
          )
    ) AS has_all
FROM change_log AS l, consumer_cursor AS c WHERE l.id = 1 AND c.consumer = 'fee_summaries'
"""


class OrderVersion(NamedTuple):
    """A version of an order; a deletion is the version after the last."""

    order_id: int
    version: int


class Needed(NamedTuple):
    """What a standby must show at least, to answer a request."""

    versions: Sequence[OrderVersion] = ()
    position: int = 0
    """Of the change log."""
    summaries: int = 0
    """The position of the fee summaries."""


class _StandbySession(Session):
    """A session that stays, though it can't write."""

    __slots__ = ()

    @property
    def must_be_replaced(self) -> bool:
        return False


class StandbyEngine(Engine):
    """Its sessions never go through a pooler, which would hide what answers."""

    async def _open(self, **_: bool) -> Session:
        return await open_standby_session(self.config, settings())


class _Probe(NamedTuple):
    last_position: int
    lag: float | None
    """In seconds, at most; None: unknown."""


async def _probe(connection: Session) -> _Probe:
    async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
        records = await connection.fetch(_PROBE)
    return _Probe(*records[0])


class Standby:
    """One host, and whether it can be used now."""

    def __init__(self, host: str, port: int | None, size: int) -> None:
        self.name = f"{host}:{port}" if port else host
        self._size = size
        url = settings().database_read_url
        config = {**DB.config, "dsn": url, "connection_class": _StandbySession, "target_session_attrs": None}
        config |= {"host": host} if host else {}
        config |= {"port": port} if port else {}
        config["timeout"] = PROBE_TIMEOUT_SECONDS
        self._engine = StandbyEngine(extensions=(), config=config)
        self.place: ReadPlace | None = None
        """None: it can't be used now."""
        self.lag: float | None = None
        """How many seconds it is behind, at most; None: it does not answer."""

    async def watch(self) -> None:
        """Keep ``place`` up to date, until cancelled."""
        while True:
            try:
                await self._watch_until_it_fails()
            except (DatabaseUnavailableError, TimeoutError, *DRIVER_ERRORS) as error:
                log.warning("standby_unavailable", standby=self.name, reason=str(error) or "no answer")
            except Exception as error:
                log.exception("standby_failed", standby=self.name, exc_info=error)
            await asyncio.sleep(REST_SECONDS)

    async def _watch_until_it_fails(self) -> None:
        connection = await self._engine.connect()
        place: ReadPlace | None = None
        try:
            probe = await _probe(connection)
            await self._engine.start(self._size, serving=True)
            place = ReadPlace(self._engine, probe.last_position)
            # The server ends its sessions before it answers again, then maybe with less than it has shown.
            connection.add_termination_listener(lambda _, place=place: place.end())
            log.info("standby_available", standby=self.name)
            while not place.is_over:
                self._judge_lag(place, probe.lag)
                place.position = max(place.position, probe.last_position)
                with suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_SECONDS):
                        await place.wait_for_end()
                probe = await _probe(connection)
        finally:
            self.place = self.lag = None
            if place is not None and not place.is_over:
                place.end()
            connection.terminate()
            await self._engine.stop(grace=0)

    def _judge_lag(self, place: ReadPlace, lag: float | None) -> None:
        # Unknown: nothing was replicated to it yet, so it may be any time behind.
        is_current = lag is not None and lag <= settings().database_read_max_lag
        if is_current != (self.place is not None):
            log.info("standby_used" if is_current else "standby_behind", standby=self.name, lag=lag)
        self.place = place if is_current else None
        self.lag = lag
        if lag is not None:
            STANDBY_LAG.set(lag)


def in_order_of_preference(
    hosts: list[tuple[str, int | None]], machine: str | None = None, process: int | None = None
) -> list[tuple[str, int | None]]:
    """Return the hosts in the order in which a process tries them: each process begins at one of its own.

    Args:
        hosts: all of them.
        machine: its name; None: this one's. In containers, process ids are the same everywhere.
        process: the process id; None: this one's.

    """
    if not hosts:
        return []
    machine = socket.gethostname() if machine is None else machine
    process = os.getpid() if process is None else process
    first = (zlib.crc32(machine.encode()) + process) % len(hosts)
    return hosts[first:] + hosts[:first]


class Standbys:
    """The standbys of a process; none, unless ``OMS_DATABASE_READ_URL`` is set."""

    def __init__(self) -> None:
        self.all: list[Standby] = []
        self._watching: list[asyncio.Task[None]] = []
        self._waiting = 0

    def start(self, size: int) -> None:
        """Begin to use the standbys; until one has answered, everything is read on the primary.

        Args:
            size: connections at most to each, beside one that watches it.

        """
        url = settings().database_read_url
        for metric in (READS, FALLBACKS, STANDBY_LAG):
            metric.make()
        hosts = hosts_of(url) if url else []
        self.all = [Standby(*host, size) for host in in_order_of_preference(hosts)]
        self._watching = [asyncio.create_task(standby.watch()) for standby in self.all]

    async def stop(self) -> None:
        """Stop using them."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        self.all, self._watching = [], []

    @property
    def place(self) -> ReadPlace | None:
        """The standby to read at; None: the primary, since none can be used."""
        return next((standby.place for standby in self.all if standby.place is not None), None)

    def begin_read(self) -> None:
        """Have what follows in this context read at a standby, if one can be used."""
        place = self.place
        READ_PLACE.set(place)
        READS.add("primary" if place is None else "standby")

    async def require(self, needed: Needed, seconds: float = DEFAULT_WAIT_SECONDS) -> None:
        """Wait until the standby that this context reads at shows what is needed, or use the primary.

        Args:
            needed: what it must show at least.
            seconds: how long to wait; then the primary is used.

        """
        place = READ_PLACE.get()
        if place is None:
            return
        try:
            if not await self._has(place, needed, seconds):
                leave_standby("behind")
        except StandbyFailedError as failure:
            leave_standby(failure.reason)

    async def _has(self, place: ReadPlace, needed: Needed, seconds: float) -> bool:
        """Return whether a standby shows what is needed, or will in some seconds.

        Raises:
            StandbyFailedError: it failed.

        """
        if not needed.versions and not needed.summaries and needed.position <= place.position:
            return True
        deadline = time.monotonic() + seconds
        pause = FIRST_PAUSE_SECONDS
        ids = [version.order_id for version in needed.versions]
        versions = [version.version for version in needed.versions]
        self._waiting += 1
        try:
            while True:
                (row,) = await place.run(
                    Session.fetch, _HAS_ALL, ids, versions, needed.position, needed.summaries
                )
                place.position = max(place.position, row["last_position"])
                if row["has_all"]:
                    return True
                left = deadline - time.monotonic()
                if left <= 0 or self._waiting > MAX_WAITING_REQUESTS:
                    return False
                await asyncio.sleep(min(pause, left))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        finally:
            self._waiting -= 1


STANDBYS = Standbys()
"""Those of this process."""
