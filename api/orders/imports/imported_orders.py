"""An order in a file that is imported: as in a create, and with all that an export shows of an order."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime as Datetime  # noqa: N812 (a member is called datetime)
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from api.http.fields import chosen_id, read_id, whole_number
from api.http.times import read_time
from api.orders.bodies import NewOrder, OrderDatetime, ServiceReference, require_distinct_services
from api.orders.fields import read_status
from api.services.bodies import NewService

GREATEST_IMPORTED_ID = 10**17 - 1
"""After an import, the server's own ids continue above those of the file, so some must be left."""

GREATEST_IMPORTED_VERSION = 999_999_999

_NAME_OF_THEN = re.compile(r"(?!\s)[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,100}(?<!\s)")

T = TypeVar("T")


read_imported_id = chosen_id(GREATEST_IMPORTED_ID)
"""Read an id of an order or service in a file: one that a caller chose or that a server assigned."""


def read_name_of_then(value: object) -> str:
    """Read the name that an order keeps of a service: by the rules for names before 2.0.0, too."""
    if not isinstance(value, str) or not _NAME_OF_THEN.fullmatch(value):
        raise ValueError("must be a string of 1 to 100 characters without control characters or outer space")
    return value


def _optional(read: Callable[[object], T]) -> PlainValidator:
    def read_or_none(value: Any) -> T | None:
        return None if value is None else read(value)

    return PlainValidator(read_or_none)


class NamedService(ServiceReference):
    """A service of an order, with the name that it had when the order was last written."""

    id: Annotated[int, PlainValidator(read_id)]
    name: Annotated[str | None, _optional(read_name_of_then)] = None


class ImportedOrder(NewOrder):
    """An order in a file: its datetime is required, and it may have all that readers of an order see."""

    id: Annotated[int | None, _optional(read_imported_id)] = None
    datetime: Annotated[Datetime, OrderDatetime]
    services: Annotated[
        list[NamedService],  # type: ignore[assignment]  # a list of what has more members
        Field(min_length=1, max_length=50),
        AfterValidator(require_distinct_services),
    ]
    status: Annotated[str | None, _optional(read_status)] = None
    version: Annotated[int | None, _optional(whole_number(1, GREATEST_IMPORTED_VERSION))] = None
    created_at: Annotated[Datetime | None, _optional(read_time)] = None
    updated_at: Annotated[Datetime | None, _optional(read_time)] = None

    @model_validator(mode="after")
    def _require_created_first(self) -> Self:
        if self.created_at and self.updated_at and self.updated_at < self.created_at:
            raise ValueError("must not have an updated_at before its created_at")
        return self


class ServiceInFile(NewService):
    """A service in a file, which may have all that readers of a service see."""

    id: Annotated[int, PlainValidator(read_imported_id)]
    archived_at: Annotated[Datetime | None, _optional(read_time)] = None
    created_at: Annotated[Datetime | None, _optional(read_time)] = None
    updated_at: Annotated[Datetime | None, _optional(read_time)] = None
