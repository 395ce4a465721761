"""Every setting of every process, read once from the environment. A wrong value stops the process.

A setting's variable is ``OMS_`` and the field's name in upper case. An unknown ``OMS_`` variable is refused
too: otherwise a misspelt one would be ignored silently. The docstrings below become the table of
``docs/configuration.md``; ``make docs`` writes it.
"""

from __future__ import annotations

import os
from functools import cache, cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.api_access import ApiKey, is_loopback, read_api_keys_file
from shared.command_output import StartRefusedError
from shared.redis_address import RedisAddress, read_redis_url
from shared.secret_keys import SecretKeys, read_secret_keys_file
from shared.server_urls import check_file
from shared.setting_values import (
    ApiKeys,
    DatabaseUrl,
    Duration,
    Hosts,
    KeySetPlace,
    Networks,
    Origins,
    Ports,
    RedisUrl,
    Seconds,
    SecretKeySetting,
    Share,
    YesOrNo,
    ZoneName,
)
from shared.webhook_addresses import AddressPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

PREFIX = "OMS_"

OF_COMMANDS = frozenset({"OMS_SERVER", "OMS_KEY", "OMS_KEY_FILE"})
"""Variables of the command line (``oms``), for calls of an API. No process reads them."""


class SettingsError(StartRefusedError):
    """The environment can't be used; the message names each variable and what it accepts."""


class Settings(BaseSettings):
    """All settings. A duration is a number of seconds, unless it takes a unit."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    database_url: DatabaseUrl
    """The PostgreSQL server, for example ``postgresql://oms@db/oms``.

    A socket folder goes in ``?host=``. The password may be given as ``PGPASSWORD`` instead, where it needs no
    escaping.
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

    Drawn by chance. Writes and errors always are.
    """

    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """The port on which the relay or the worker serves its own metrics (``/metrics``); 0 means none.

    Where both run on one host, give each a port of its own; ``make run`` gives the worker the next one. The
    API serves its metrics on ``OMS_PORT``.
    """

    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address that ``OMS_METRICS_PORT`` is opened on. Everyone who can reach it may read the metrics."""

    heartbeat_file: str = ""
    """A file that the relay or the worker touches each time its main loop runs; empty means none.

    Give each process a file of its own. The health check, ``python -m shared.heartbeat``, fails when the file
    is older than 30 seconds.
    """

    connections: Annotated[int, Field(ge=100, le=100_000)] = 4_000
    """Connections that one API process accepts, idle ones included; fewer where it may open fewer files.

    When almost all are taken, connections without a request are closed, the longest silent ones first.
    """

    header_timeout: Seconds = 10
    """How long a new connection may take to send the header of its first request, before it is closed."""

    idle_timeout: Seconds = 75
    """How long a connection stays open after an answer, until its next request's header is complete."""

    body_timeout: Seconds = 30
    """How long the body of a request may take to arrive, before it is answered 408.

    It may send nothing, or less than 1,000 bytes a second, for a third of this.
    """

    drain: Annotated[float, Field(ge=0, le=15)] = 0
    """How long the API serves on after SIGTERM, while ``/health/ready`` is 503 and answers close connections.

    Where ``KUBERNETES_SERVICE_HOST`` is set, the default is 5.
    """

    pool_size: Annotated[int, Field(ge=1, le=64)] = 6
    """Database connections of one API process. 4 to 8 suit two cores."""

    pool_wait: Seconds = 5
    """How long a request waits for a database connection before it is answered 503.

    Or for the statement that it will share with other reads. If it would wait longer, it is answered at once.
    """

    statement_timeout: Seconds = 15
    """PostgreSQL cancels any statement that runs longer.

    It is also the limit for retries: a request that still cannot get a lock after this time is answered 503.
    """

    lock_wait: Annotated[float, Field(ge=0.001, le=60)] = 0.1
    """How long a statement of a request waits for a lock before its transaction is rolled back.

    The request returns its connection to the pool, pauses, and tries again.
    """

    relay_interval: Seconds = 0.1
    """The longest pause of the relay between two reads of the change log.

    It begins with 5 ms after each change, and gets longer while there are none.
    """

    relay_batch: Annotated[int, Field(ge=1, le=5_000)] = 1_000
    """The most changes that one message announces, and that a consumer applies in one transaction."""

    relay_window: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """The most changes that may be published and not yet applied.

    The limit keeps a stopped worker from filling Redis.
    """

    republish_after: Seconds = 5
    """How long a cursor may stay unchanged before the relay publishes the waiting changes again.

    If nothing waits in the queue, it does so after a second.
    """

    change_retention: Duration = Field("90d", validate_default=True)
    """How long changes are kept for subscribers."""

    stream_silence: Seconds = 15
    """A live stream with no event for this long gets a comment, so that proxies keep the connection open."""

    stream_write_timeout: Seconds = 10
    """A stream reader whose connection accepts no data for this long is disconnected. It may reconnect."""

    redis_stream_length: Annotated[int, Field(ge=100, le=10_000_000)] = 10_000
    """How many changes the Redis stream holds, approximately: Redis trims the stream in blocks."""

    require_if_match: YesOrNo = Field("no", validate_default=True)
    """``yes``: PUT, PATCH and DELETE of an order require ``If-Match``; without it they are answered 428."""

    api_keys: ApiKeys = Field("", validate_default=True)
    """Who may call the API: ``name:role:sha256``, separated by commas.

    Empty means that everyone may, unless the database has keys or ``OMS_ACCESS`` is ``keys``. ``role`` is
    ``read`` or ``write``; ``sha256`` is the SHA-256 of the key in hexadecimal. Names are unique.
    """

    api_keys_file: str = ""
    """A file with more keys, in the same form, also one per line; empty means none.

    A file without any key is refused, unless ``OMS_API_KEYS`` has some or ``OMS_ACCESS`` is ``open``.
    """

    access: Literal["protected", "open", "keys"] = "protected"
    """``keys``: keys are always asked for, even while there is none: for keys that the database has.

    ``open``: without keys, the API may listen on any address, and who can reach it may do everything. Where
    there are keys, it changes nothing.
    """

    secret_key: SecretKeySetting = Field("", validate_default=True)
    """Encrypts webhook secrets, and answers kept for an ``Idempotency-Key``, in the database; empty: nothing.

    Keys of 32 random bytes in base64 or hexadecimal, separated by commas: the first one encrypts, all of them
    decrypt. API and worker need the same ones; see below before you set it.
    """

    secret_key_file: str = ""
    """A file with these keys instead, which may be one per line; empty means none."""

    allowed_hosts: Hosts = Field("", validate_default=True)
    """The names under which callers may address the API (``Host``), separated by commas: ``*.example.com``.

    Empty means any name where ``OMS_API_KEYS`` has keys, ``OMS_ACCESS`` is ``keys`` or ``OMS_JWKS`` is set.
    Otherwise it means loopback names and ``OMS_HOST``, so that no web page can reach the API through a name
    of its own. Health checks are answered under any name.
    """

    jwks: KeySetPlace = ""
    """The public keys of an identity provider (JWK set), whose access tokens are accepted beside API keys.

    An ``https:`` or ``http:`` address, or the path of a file; empty means none. Where it is set, keys or
    tokens are asked for.
    """

    jwt_issuer: str = ""
    """The ``iss`` that access tokens must have; required with ``OMS_JWKS``."""

    jwt_audience: str = ""
    """What the ``aud`` of access tokens must name: this service. Required with ``OMS_JWKS``."""

    cors_origins: Origins = Field("", validate_default=True)
    """The origins whose web pages may use the API, separated by commas: ``https://app.example.com``.

    Empty means none. ``*`` means all, and is refused unless the settings ask for keys.
    """

    worker_processes: Annotated[int, Field(ge=1, le=64)] = 2
    """Worker child processes that apply changes.

    Three more are always started: two to deliver webhooks, one to prove the fee summaries.
    """

    webhook_networks: Networks = Field("", validate_default=True)
    """Private and loopback networks that webhooks may be sent to: ``10.0.0.0/8,127.0.0.0/8``.

    Public addresses need no entry. Link-local, metadata and multicast addresses are always refused.
    """

    webhook_ports: Ports = Field("80,443,1024-65535", validate_default=True)
    """Ports that webhooks may be sent to: numbers and ranges, separated by commas."""

    webhook_plain_http: Literal["never", "internal", "always"] = "internal"
    """Whether webhooks may be sent without TLS (``http:``).

    ``internal`` allows it only to addresses in ``OMS_WEBHOOK_NETWORKS``.
    """

    webhook_ca_file: str = ""
    """A file of CA certificates (PEM) to trust in addition to the system's; empty means none."""

    webhook_timeout: Annotated[float, Field(gt=0, le=15)] = 15
    """Total time limit of one attempt: name look-up, connection, request and response."""

    webhook_endpoints_at_once: Annotated[int, Field(ge=2, le=1_000)] = 100
    """The most webhooks that are sent to at the same time, each with one request at a time.

    Failing webhooks get at most half of these places.
    """

    max_webhooks: Annotated[int, Field(ge=1, le=10_000)] = 100
    """The most webhooks that there may be; further ones are refused. Each gets a row for every change."""

    @property
    def redis_address(self) -> RedisAddress:
        """Where Redis is, and how to get in."""
        address = read_redis_url(self.redis_url)
        if self.redis_password:
            address = address.with_password(self.redis_password)
        if self.redis_ca_file:
            address = address.with_ca_file(check_file(self.redis_ca_file, "OMS_REDIS_CA_FILE"))
        return address

    @cached_property
    def all_api_keys(self) -> tuple[ApiKey, ...]:
        """The keys of ``OMS_API_KEYS`` and of ``OMS_API_KEYS_FILE``."""
        if not self.api_keys_file:
            return self.api_keys
        try:
            keys = read_api_keys_file(self.api_keys_file, self.api_keys)
        except ValueError as error:
            raise ValueError(f"OMS_API_KEYS_FILE: {error}") from None
        if not keys and self.access == "protected":
            raise ValueError("OMS_API_KEYS_FILE: has no key; OMS_ACCESS=open would let everyone in")
        return keys

    @cached_property
    def secret_keys(self) -> SecretKeys:
        """The keys of ``OMS_SECRET_KEY`` or ``OMS_SECRET_KEY_FILE``."""
        if not self.secret_key_file:
            return self.secret_key
        if self.secret_key.keys:
            raise ValueError("OMS_SECRET_KEY_FILE: OMS_SECRET_KEY is set too; set one of them")
        try:
            return read_secret_keys_file(self.secret_key_file)
        except ValueError as error:
            raise ValueError(f"OMS_SECRET_KEY_FILE: {error}") from None

    @cached_property
    def asks_for_keys(self) -> bool:
        """Whether keys are asked for whatever is in the database. They also are once there is a key in it."""
        return bool(self.all_api_keys or self.jwks) or self.access == "keys"

    @model_validator(mode="before")
    @classmethod
    def _drain_under_kubernetes(cls, values: dict[str, Any]) -> dict[str, Any]:
        # Kubernetes sends SIGTERM while requests still arrive: it takes the address away at the same time.
        return {"drain": 5, **values} if "KUBERNETES_SERVICE_HOST" in os.environ else values

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        try:
            _ = self.redis_address
        except ValueError as error:
            raise ValueError(f"OMS_REDIS_URL: {error}") from None
        _ = self.all_api_keys
        self._check_access()
        _ = self.secret_keys
        return self

    def _check_access(self) -> None:
        required = {"OMS_JWT_ISSUER": self.jwt_issuer, "OMS_JWT_AUDIENCE": self.jwt_audience}
        missing = [name for name, value in required.items() if not value.strip()]
        if self.jwks and missing:
            raise ValueError(
                f"OMS_JWKS: needs {' and '.join(missing)} too; otherwise tokens that the identity provider "
                "made for others would be accepted"
            )
        if not self.jwks and len(missing) < len(required):
            raise ValueError("OMS_JWT_ISSUER and OMS_JWT_AUDIENCE: have no meaning without OMS_JWKS")
        if self.jwks and "://" not in self.jwks:
            check_file(self.jwks, "OMS_JWKS")
        if self.cors_origins == ("*",) and not self.asks_for_keys:
            raise ValueError(
                "OMS_CORS_ORIGINS: without keys, * would let every web page do everything; name the origins, "
                "or set OMS_API_KEYS, OMS_ACCESS=keys or OMS_JWKS"
            )

    @property
    def webhook_addresses(self) -> AddressPolicy:
        """The addresses that webhooks may be sent to."""
        return AddressPolicy(self.webhook_networks, self.webhook_ports, self.webhook_plain_http)

    @property
    def zone(self) -> ZoneInfo:
        """The time zone in which fee summaries count days."""
        return ZoneInfo(self.time_zone)


@cache
def settings() -> Settings:
    """Read and check the environment, once per process.

    Raises:
        SettingsError: variables are missing, unknown or invalid; the message names all of them.

    """
    known = {PREFIX + name.upper() for name in Settings.model_fields} | OF_COMMANDS
    faults = [
        f"{name}: unknown setting"
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known
    ]
    try:
        valid_settings = Settings()
    except ValidationError as error:
        raise _settings_error([*faults, *map(_fault, error.errors(include_input=False))]) from None
    if faults:
        raise _settings_error(faults)
    return valid_settings


def _fault(error: ErrorDetails) -> str:
    text = error["msg"].removeprefix("Value error, ")
    # A fault of several settings together names them itself.
    return f"{PREFIX}{str(error['loc'][0]).upper()}: {text}" if error["loc"] else text


def _settings_error(faults: Sequence[str]) -> SettingsError:
    heading = "the environment can't be used:"
    return SettingsError(f"{heading} {faults[0]}" if len(faults) == 1 else "\n  ".join((heading, *faults)))


def check_listening() -> None:
    """Check that the API asks for keys if others than this machine's users can reach it.

    Raises:
        SettingsError: it would listen on another address than loopback, and let everyone in.

    """
    given = settings()
    if not given.asks_for_keys and given.access != "open" and not is_loopback(given.host):
        fault = (
            "OMS_HOST: other machines may reach this address, and without keys all who do may do everything; "
            "set OMS_API_KEYS, OMS_ACCESS=keys for keys in the database, OMS_JWKS for tokens of an identity "
            "provider, or OMS_ACCESS=open if that is meant"
        )
        raise _settings_error([fault])


if __name__ == "__main__":
    # Checks everything that any process would refuse, before the first one is started.
    check_listening()
