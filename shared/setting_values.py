"""How settings are read from text. Each function raises ``ValueError`` for a text that is not accepted."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated
from zoneinfo import available_timezones

from pydantic import BeforeValidator, Field

from shared.api_access import read_api_keys, read_hosts
from shared.redis_address import read_redis_url
from shared.webhook_addresses import read_networks, read_ports


def check_zone_name(name: str) -> str:
    """Return the name of a time zone."""
    if name not in available_timezones():
        raise ValueError("is not the name of a time zone; use an IANA name such as UTC or Europe/Rome")
    return name


def parse_yes_or_no(value: object) -> object:
    """Turn the texts yes and no into a boolean."""
    if isinstance(value, str) and value not in ("yes", "no"):
        raise ValueError("must be yes or no")
    return value == "yes" if isinstance(value, str) else value


def parse_api_keys(value: object) -> object:
    """Read a text with API keys."""
    return read_api_keys(value) if isinstance(value, str) else value


def parse_hosts(value: object) -> object:
    """Read a text with host names."""
    return read_hosts(value) if isinstance(value, str) else value


def check_redis_url(url: str) -> str:
    """Return a URL of Redis that can be read."""
    read_redis_url(url)
    return url


def parse_networks(value: object) -> object:
    """Read a text with networks."""
    return read_networks(value) if isinstance(value, str) else value


def parse_ports(value: object) -> object:
    """Read a text with ports."""
    return read_ports(value) if isinstance(value, str) else value


_DURATION = re.compile(r"([1-9][0-9]{0,8})(d|h|m|s)")
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def _parse_duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value)
    if not match:
        raise ValueError("must be a whole number and a unit, d, h, m or s: 90d, 12h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


Duration = Annotated[
    timedelta, BeforeValidator(_parse_duration), Field(gt=timedelta(0), le=timedelta(days=36_500))
]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
