"""Every setting of every process, read once from the environment and refused loudly when wrong.

Names are ``OMS_`` + the field in upper case. An ``OMS_`` variable that no setting has is refused too: a
misspelt setting would otherwise be silently ignored.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.webhook_addresses import AddressPolicy, Network, read_networks, read_ports

PREFIX = "OMS_"

_TELLS = "the environment can't be used:\n  "


class SettingsError(SystemExit):
    """The environment can't be used; the text names each variable and what would be right.

    Unhandled, it ends the process with that text and exit status 1, without a stack trace.
    """


def _zone_name(name: str) -> str:
    if name not in available_timezones():
        message = "is not the name of a time zone; use an IANA name such as UTC or Europe/Rome"
        raise ValueError(message)
    return name


def _yes_or_no(value: object) -> object:
    if isinstance(value, str) and value not in ("yes", "no"):
        message = "must be yes or no"
        raise ValueError(message)
    return value == "yes" if isinstance(value, str) else value


@dataclass(frozen=True)
class ApiKey:
    """A key that callers may show, by the digest it is known by."""

    name: str
    role: Literal["read", "write"]
    sha256: str


_API_KEY = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<role>read|write):(?P<sha256>[0-9a-f]{64})")


def _api_keys(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = [_API_KEY.fullmatch(entry.strip()) for entry in value.split(",") if entry.strip()]
    keys = [
        ApiKey(entry["name"], "write" if entry["role"] == "write" else "read", entry["sha256"])
        for entry in found
        if entry
    ]
    if len(keys) < len(found) or len({key.name for key in keys}) < len(keys):
        message = "must be name:read:sha256 or name:write:sha256, separated by commas, each name once"
        raise ValueError(message)
    return keys


def _networks(value: object) -> object:
    return read_networks(value) if isinstance(value, str) else value


def _ports(value: object) -> object:
    return read_ports(value) if isinstance(value, str) else value


_DURATION = re.compile(r"([1-9][0-9]{0,8})(d|h|m|s)")
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value)
    if not found:
        message = "must be a whole number and a unit, d, h, m or s: 90d, 12h"
        raise ValueError(message)
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


Duration = Annotated[timedelta, BeforeValidator(_duration), Field(gt=timedelta(0), le=timedelta(days=36_500))]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseSettings):
    """Where things are and how long they may take. Durations without a unit are in seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    database_url: Annotated[str, Field(pattern=r"^postgres(ql)?://")]
    """PostgreSQL, e.g. ``postgresql://oms@db/oms``; a socket folder goes in ``?host=``."""

    redis_url: Annotated[str, Field(pattern=r"^rediss?://")]
    """A Redis-compatible server. Only speed depends on it: it may be wiped at any moment."""

    host: str = "127.0.0.1"
    """The address that the API listens on."""

    port: Annotated[int, Field(ge=1, le=65_535)] = 8000
    """The port that the API listens on."""

    time_zone: Annotated[str, AfterValidator(_zone_name)] = "UTC"
    """The zone whose days the fee summaries count in."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """What is logged: this and what is more severe."""

    log_format: Literal["text", "json"] = "text"
    """``text`` for people, ``json`` for machines: one object a line."""

    heartbeat_file: str = ""
    """A file that relay and worker touch at each round, for ``python -m shared.heartbeat``; each its own."""

    pool_size: Annotated[int, Field(ge=1, le=64)] = 6
    """Database connections of one API process; 4 to 8 suit two cores."""

    pool_wait: Seconds = 5
    """How long a request may wait for a connection before it is answered 503."""

    statement_timeout: Seconds = 15
    """PostgreSQL ends any statement of a request that takes longer."""

    lock_wait: Annotated[float, Field(ge=0.001, le=60)] = 0.1
    """What a request waits for a lock before it gives its connection back for a while and tries again."""

    relay_interval: Seconds = 0.1
    """Pause of the relay between two looks at the change log."""

    relay_batch: Annotated[int, Field(ge=1, le=5_000)] = 500
    """Changes in one message to a consumer."""

    relay_window: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Changes that may be published and not yet applied: a stopped worker can't fill Redis."""

    republish_after: Seconds = 5
    """A consumer's cursor that stands still this long behind what was published is published to again."""

    change_retention: Duration = Field("90d", validate_default=True)
    """How long changes are kept for subscribers, as a number and a unit: ``90d``, ``12h``."""

    stream_silence: Seconds = 15
    """A stream without an event for this long gets a comment, so that no proxy thinks it dead."""

    stream_write_timeout: Seconds = 10
    """A reader of a stream whose connection takes nothing for this long is dropped; it may come back."""

    redis_stream_length: Annotated[int, Field(ge=100, le=10_000_000)] = 10_000
    """Changes that the Redis stream holds, about: Redis trims it in blocks."""

    require_if_match: Annotated[bool, BeforeValidator(_yes_or_no)] = Field("no", validate_default=True)
    """Whether PUT, PATCH and DELETE of an order must say which version they mean (428 without If-Match)."""

    api_keys: Annotated[tuple[ApiKey, ...], NoDecode, BeforeValidator(_api_keys)] = Field(
        "", validate_default=True
    )
    """Who may use the API: ``name:role:sha256``, separated by commas; empty means everybody.

    ``role`` is ``read`` or ``write``; ``sha256`` is the hexadecimal SHA-256 of the key.
    """

    worker_processes: Annotated[int, Field(ge=1, le=64)] = 2
    """Children of a worker that apply changes. Three more attempt deliveries and prove the fee summaries."""

    webhook_networks: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)] = Field(
        "", validate_default=True
    )
    """Private and loopback networks that webhooks may lead into: ``10.0.0.0/8,127.0.0.0/8``.

    Public addresses need no entry. Link-local, metadata and multicast addresses are refused whatever it says.
    """

    webhook_ports: Annotated[tuple[tuple[int, int], ...], NoDecode, BeforeValidator(_ports)] = Field(
        "80,443,1024-65535", validate_default=True
    )
    """Ports that webhooks may lead to, with ranges."""

    webhook_plain_http: Literal["never", "internal", "always"] = "internal"
    """Whether webhooks may be sent in clear (``http:``); ``internal``: into OMS_WEBHOOK_NETWORKS only."""

    webhook_ca_file: str = ""
    """Certificates (PEM) that are trusted beside the system's, for subscribers with a CA of their own."""

    webhook_timeout: Annotated[float, Field(gt=0, le=15)] = 15
    """What one attempt may take in all: looking the name up, connecting, sending, being answered."""

    webhook_endpoints_at_once: Annotated[int, Field(ge=2, le=1_000)] = 100
    """Webhooks that are sent to at the same time, each one request after another; failing ones get half."""

    @property
    def webhook_addresses(self) -> AddressPolicy:
        """Where webhooks may lead."""
        return AddressPolicy(self.webhook_networks, self.webhook_ports, self.webhook_plain_http)

    @property
    def zone(self) -> ZoneInfo:
        """The zone whose days the fee summaries count in."""
        return ZoneInfo(self.time_zone)


@cache
def settings() -> Settings:
    """Read and check the environment, once per process.

    Raises:
        SettingsError: a variable is missing, unknown or out of its bounds; all of them are named.

    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    faults = [
        f"{name}: no such setting"
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known
    ]
    try:
        found = Settings()
    except ValidationError as error:
        faults += [f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()]
        raise SettingsError(_TELLS + "\n  ".join(faults)) from None
    if faults:
        raise SettingsError(_TELLS + "\n  ".join(faults))
    return found
