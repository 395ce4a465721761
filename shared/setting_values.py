"""The types of settings: how each is read from text, which raises ``ValueError`` if it is not accepted."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import cache
from typing import Annotated
from zoneinfo import available_timezones

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from shared.api_access import ApiKey, check_key_set_place, read_api_keys, read_hosts, read_origins
from shared.broker_address import read_broker_url
from shared.database.url import check_database_url
from shared.redis_address import read_redis_url
from shared.secret_keys import SecretKeys, read_secret_keys
from shared.webhook_addresses import Network, read_networks, read_ports

_CELL_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")

_zone_names = cache(available_timezones)


def check_zone_name(name: str) -> str:
    """Check that a time zone has this name.

    Raises:
        ValueError: none has.

    """
    if name not in _zone_names():
        raise ValueError("is not the name of a time zone; use an IANA name such as UTC or Europe/Rome")
    return name


def _check_redis_url(url: str) -> str:
    read_redis_url(url)
    return url


def _check_cell_name(name: str) -> str:
    if name and not _CELL_NAME.fullmatch(name):
        raise ValueError(
            "must be 1 to 32 small letters, digits and hyphens, and neither begin nor end with one"
        )
    return name


def _check_broker_url(url: str) -> str:
    if url:
        read_broker_url(url)
    return url


def _read_yes_or_no(text: str) -> bool:
    if text not in {"yes", "no"}:
        raise ValueError("must be yes or no")
    return text == "yes"


_DURATION = re.compile(r"([1-9][0-9]{0,8})(d|h|m|s)")
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def _read_duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError("must be a whole number and a unit, d, h, m or s: 90d, 12h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


# The environment has texts, and so have the defaults of these types (``validate_default``).
DatabaseUrl = Annotated[str, AfterValidator(check_database_url), Field(repr=False)]
OptionalDatabaseUrl = Annotated[
    str, AfterValidator(lambda url: check_database_url(url) if url else url), Field(repr=False)
]
RedisUrl = Annotated[str, AfterValidator(_check_redis_url), Field(repr=False)]
CellName = Annotated[str, AfterValidator(_check_cell_name)]
BrokerUrl = Annotated[str, AfterValidator(_check_broker_url), Field(repr=False)]
ZoneName = Annotated[str, AfterValidator(check_zone_name)]
YesOrNo = Annotated[bool, BeforeValidator(_read_yes_or_no)]
ApiKeys = Annotated[tuple[ApiKey, ...], NoDecode, BeforeValidator(read_api_keys)]
SecretKeySetting = Annotated[SecretKeys, NoDecode, BeforeValidator(read_secret_keys), Field(repr=False)]
Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(read_hosts)]
KeySetPlace = Annotated[str, AfterValidator(check_key_set_place)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(read_origins)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(read_networks)]
Ports = Annotated[tuple[tuple[int, int], ...], NoDecode, BeforeValidator(read_ports)]
Duration = Annotated[
    timedelta, BeforeValidator(_read_duration), Field(gt=timedelta(0), le=timedelta(days=36_500))
]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
SHARE = "share"
"""Marks a number that is no duration."""
Share = Annotated[float, Field(ge=0, le=1), SHARE]
