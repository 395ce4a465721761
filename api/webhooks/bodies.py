"""What callers may send about webhooks."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import Field, PlainValidator, model_validator

from api.changes.queries import TYPES as ORDER_CHANGE_TYPES
from api.http import fields
from api.http.bodies import Body
from shared.settings import settings
from shared.webhook_addresses import RefusedAddressError

TYPES = (*ORDER_CHANGE_TYPES, "webhook.disabled")

LONGEST_DESCRIPTION = 500
MOST_CALENDARS = 100
OLD_SECRET_SECONDS = 24 * 3_600
LONGEST_OLD_SECRET_SECONDS = 7 * 24 * 3_600


def _url(value: object) -> str:
    if not isinstance(value, str):
        message = "must be a string such as https://orders.example/changes"
        raise ValueError(message)  # noqa: TRY004 (one kind of error for every fault)
    try:
        settings().webhook_addresses.read_url(value)
    except RefusedAddressError as error:
        raise ValueError(str(error)) from None
    return value


def _each_once(value: object, what: str, most: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        message = f"must be an array of {what}"
        raise ValueError(message)
    if len(value) > most or len(set(value)) < len(value):
        message = f"must have at most {most} elements, each once"
        raise ValueError(message)
    return value


def _types(value: object) -> list[str]:
    found = _each_once(value, "types of notifications", len(TYPES))
    if unknown := [item for item in found if item not in TYPES]:
        message = f"must hold none but {', '.join(TYPES)}; not {unknown[0][:40]!r}"
        raise ValueError(message)
    return found


def _calendars(value: object) -> list[str]:
    return [fields.read_calendar(name) for name in _each_once(value, "names of calendars", MOST_CALENDARS)]


def _description(value: object) -> str:
    if (
        not isinstance(value, str)
        or len(value) > LONGEST_DESCRIPTION
        or fields.CONTROL_CHARACTERS.search(value)
    ):
        message = (
            f"must be a string of at most {LONGEST_DESCRIPTION} characters, none of them a control character"
        )
        raise ValueError(message)
    return value


def _yes_no(value: object) -> bool:
    if not isinstance(value, bool):
        message = "must be true or false"
        raise ValueError(message)  # noqa: TRY004 (one kind of error for every fault)
    return value


def _whole_number(greatest: int) -> Any:
    def read(value: object) -> int:
        # A decimal with nothing behind the point is a whole number too (1.0), in JSON.
        if isinstance(value, bool) or not isinstance(value, int | Decimal) or not 0 <= value <= greatest:
            message = f"must be a whole number from 0 to {greatest}"
            raise ValueError(message)
        if value != int(value):
            message = "must be a whole number"
            raise ValueError(message)
        return int(value)

    return PlainValidator(read)


Url = Annotated[str, PlainValidator(_url)]
Types = Annotated[list[str], PlainValidator(_types)]
Calendars = Annotated[list[str], PlainValidator(_calendars)]
Description = Annotated[str, PlainValidator(_description)]


class NewWebhook(Body):
    """The body of a create. Empty lists mean every change of an order, on every calendar."""

    url: Url
    types: Types = Field(default_factory=list)
    calendars: Calendars = Field(default_factory=list)
    description: Description = ""


class WebhookPatch(Body):
    """The body of a PATCH (JSON Merge Patch, RFC 7396): what is not there stays."""

    url: Url = ""
    types: Types = Field(default_factory=list)
    calendars: Calendars = Field(default_factory=list)
    description: Description = ""
    enabled: Annotated[bool, PlainValidator(_yes_no)] = True

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            message = "must name at least one field: url, types, calendars, description or enabled"
            raise ValueError(message)
        return self


class SecretRotation(Body):
    """The body of a rotation."""

    old_valid_for: Annotated[int, _whole_number(LONGEST_OLD_SECRET_SECONDS)] = OLD_SECRET_SECONDS
    """Seconds for which the secret of now signs beside the new one."""


class Replay(Body):
    """The body of a replay: everything after a position, or all that was missed."""

    after: Annotated[int | None, _whole_number(fields.GREATEST_ID)] = None
