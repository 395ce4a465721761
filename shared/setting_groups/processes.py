"""Every process, and the servers that it needs."""

from __future__ import annotations

from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field

from shared.broker_address import BrokerAddress, read_broker_url
from shared.redis_address import RedisAddress, read_redis_url
from shared.server_urls import check_file
from shared.setting_values import (
    BrokerUrl,
    CellName,
    DatabaseUrl,
    OptionalDatabaseUrl,
    RedisUrl,
    Seconds,
    Share,
    ZoneName,
)


class ProcessSettings(BaseModel):
    """Every process, and the servers that it needs."""

    database_url: DatabaseUrl
    """The PostgreSQL server, for example ``postgresql://oms@db/oms``.

    A socket folder goes in ``?host=``. The password may be given as ``PGPASSWORD`` instead, where it needs no
    escaping.
    """

    database_read_url: OptionalDatabaseUrl = ""
    """Standbys of that server, from which the API reads orders, changes and fee summaries; empty means none.

    As ``OMS_DATABASE_URL``, with one host or several: ``postgresql://oms@db-2,db-3/oms``. While none can be
    used, the primary is read. See [operations/standbys](operations/standbys.md).
    """

    database_read_max_lag: Seconds = 10
    """A standby that is further behind is not read.

    The relay writes every two seconds, so a standby of an idle system seems to be up to 2 s behind.
    """

    database_pooler: Literal["none", "session", "transaction"] = "none"
    """The mode of the pooler, such as PgBouncer, that ``OMS_DATABASE_URL`` names; ``none`` without a pooler.

    ``transaction`` needs PgBouncer 1.21 or newer, ``OMS_DATABASE_DIRECT_URL`` and settings of the role. See
    [operations/poolers](operations/poolers.md).
    """

    database_direct_url: OptionalDatabaseUrl = ""
    """PostgreSQL itself, or a pooler in session mode, for the relay, the worker, migrations and commands.

    They hold locks of their session. Empty means ``OMS_DATABASE_URL``.
    """

    redis_url: RedisUrl
    """The Redis-compatible server. Only speed depends on it: its data may be lost at any time.

    ``redis://``, ``rediss://`` (over TLS, with the certificate verified), ``unix://`` or ``sentinel://``; see
    below.
    """

    redis_password: Annotated[str, Field(repr=False)] = ""
    """The password of Redis, where it needs no escaping; empty if it is in the URL, or there is none."""

    redis_ca_file: str = ""
    """A file of CA certificates (PEM) to trust for Redis in addition to the system's; empty means none."""

    broker_url: BrokerUrl = ""
    """RabbitMQ for the queue between relay and worker: ``amqp://user:password@host/vhost``, or ``amqps://``.

    Several hosts are the nodes of one cluster. Empty: the queue is in Redis. With it, Redis has only the
    Redis stream for subscribers. See [operations/brokers](operations/brokers.md).
    """

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address that the API listens on.

    Without API keys it does not start on any but a loopback address, unless ``OMS_ACCESS`` is ``open``.
    """

    port: Annotated[int, Field(ge=1, le=65_535)] = 8000
    """The port that the API listens on. ``make run`` takes ``PORT`` instead."""

    api_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes of one API server, which share its port. More than the machine has cores do not help.

    Each has its own limits of connections, database connections and streams.
    """

    worker_processes: Annotated[int, Field(ge=1, le=64)] = 2
    """Worker child processes that apply changes.

    Three more are always started: two to deliver webhooks, one to prove the fee summaries.
    """

    cell: CellName = ""
    """The name of this cell, where a company divides its calendars among several installations: ``eu-1``.

    Empty means that this is the only one. Small letters, digits and hyphens, at most 32. It is part of the
    changes' ``source``; a process refuses to start if the database is of another cell. See
    [scaling](scaling.md#cells).
    """

    cell_number: Annotated[int, Field(ge=0, le=99)] = 0
    """The number of this cell, 1 to 99, which its ids begin with; 0 where there is no ``OMS_CELL``."""

    time_zone: ZoneName = "UTC"
    """The time zone in which fee summaries count days: an IANA name such as ``Europe/Rome``.

    A process refuses to start if the existing summaries use another zone; ``make rebuild`` changes it.
    """

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least severe level that is logged."""

    log_format: Literal["text", "json"] = "text"
    """``text`` is for people, ``json`` for machines: one object per line, of commands too."""

    log_sample: Share = 1
    """The share of successful reads (GET, HEAD and OPTIONS, answered 2xx or 304) whose requests are logged.

    Chosen at random. Writes and errors always are.
    """

    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """The port on which the relay or the worker serves its own metrics (``/metrics``); 0 means none.

    Where both run on one host, give each a port of its own; ``make run`` gives the worker the next one. The
    API serves its metrics on ``OMS_PORT``.
    """

    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address that ``OMS_METRICS_PORT`` is opened on. Everybody who can reach it may read the metrics."""

    heartbeat_file: str = ""
    """A file that the relay or the worker touches each time its main loop runs; empty means none.

    Give each process a file of its own. The health check, ``python -m shared.heartbeat``, fails when the file
    is older than 30 seconds.
    """

    def check_cell(self) -> None:
        """Check that a cell has a name and a number, or neither.

        Raises:
            ValueError: it has one of them.

        """
        if bool(self.cell) != bool(self.cell_number):
            raise ValueError("OMS_CELL, OMS_CELL_NUMBER: a cell needs both; set both or neither")

    @property
    def redis_address(self) -> RedisAddress:
        """Where Redis is, and how to get in."""
        address = read_redis_url(self.redis_url)
        if self.redis_password:
            address = address.with_password(self.redis_password)
        if self.redis_ca_file:
            address = address.with_ca_file(check_file(self.redis_ca_file, "OMS_REDIS_CA_FILE"))
        return address

    @property
    def broker_address(self) -> BrokerAddress | None:
        """Where RabbitMQ is; None if the queue is in Redis."""
        return read_broker_url(self.broker_url) if self.broker_url else None

    @property
    def zone(self) -> ZoneInfo:
        """The time zone in which fee summaries count days."""
        return ZoneInfo(self.time_zone)
