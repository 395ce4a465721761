"""The bodies of requests about webhooks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator

from api.changes.queries import TYPES as ORDER_CHANGE_TYPES
from api.http import fields
from api.http.bodies import Body, Patch, ReadOnly
from api.orders.fields import read_calendar
from shared.settings import settings
from shared.webhook_addresses import RefusedAddressError

TYPES = (*ORDER_CHANGE_TYPES, "webhook.disabled")

LONGEST_DESCRIPTION = 500
MAX_CALENDARS = 100
OLD_SECRET_SECONDS = 24 * 3_600
LONGEST_OLD_SECRET_SECONDS = 7 * 24 * 3_600


def _read_url(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(  # noqa: TRY004 (one kind of error for every fault)
            "must be a string such as https://orders.example/changes"
        )
    try:
        settings().webhook_addresses.read_url(value)
    except RefusedAddressError as error:
        raise ValueError(str(error)) from None
    return value


def _read_distinct_texts(value: object, what: str, most: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"must be an array of {what}")
    if len(value) > most or len(set(value)) < len(value):
        raise ValueError(f"must have at most {most} elements, all different")
    return value


def _read_types(value: object) -> list[str]:
    types = _read_distinct_texts(value, "types of notifications", len(TYPES))
    if unknown := [name for name in types if name not in TYPES]:
        raise ValueError(f"must contain only {', '.join(TYPES)}, not {unknown[0][:40]!r}")
    return types


def _read_calendars(value: object) -> list[str]:
    names = _read_distinct_texts(value, "names of calendars", MAX_CALENDARS)
    return [read_calendar(name) for name in names]


def _read_description(value: object) -> str:
    if (
        not isinstance(value, str)
        or len(value) > LONGEST_DESCRIPTION
        or fields.CONTROL_CHARACTERS.search(value)
    ):
        raise ValueError(
            f"must be a string of at most {LONGEST_DESCRIPTION} characters, without control characters"
        )
    return value


def _read_boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 (one kind of error for every fault)
    return value


Url = Annotated[str, PlainValidator(_read_url)]
Types = Annotated[list[str], PlainValidator(_read_types)]
Calendars = Annotated[list[str], PlainValidator(_read_calendars)]
Description = Annotated[str, PlainValidator(_read_description)]


class NewWebhook(Body):
    """The body of a create. Empty lists mean every change of an order, on every calendar."""

    url: Url
    types: Types = Field(default_factory=list)
    calendars: Calendars = Field(default_factory=list)
    description: Description = ""


class WebhookPatch(Patch):
    """The body of a PATCH."""

    id: Annotated[int | None, PlainValidator(fields.read_id)] = None
    url: Url = ""
    types: Types = Field(default_factory=list)
    calendars: Calendars = Field(default_factory=list)
    description: Description = ""
    enabled: Annotated[bool, PlainValidator(_read_boolean)] = True
    disabled: ReadOnly = None
    failing_since: ReadOnly = None
    after: ReadOnly = None
    created_at: ReadOnly = None
    updated_at: ReadOnly = None


class SecretRotation(Body):
    """The body of a rotation."""

    old_valid_for: Annotated[int, PlainValidator(fields.whole_number(0, LONGEST_OLD_SECRET_SECONDS))] = (
        OLD_SECRET_SECONDS
    )
    """Seconds for which the current secret signs beside the new one."""


class Replay(Body):
    """The body of a replay: everything after a position; without one, everything that was missed."""

    after: Annotated[int | None, PlainValidator(fields.whole_number(0, fields.GREATEST_ID))] = None
