"""The bodies of requests about services."""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainValidator

from api.http.bodies import Body
from api.http.fields import CONTROL_CHARACTERS, read_callers_id


def read_service_name(value: object) -> str:
    """Read a service's name; space at its beginning or end is refused, not removed."""
    if not isinstance(value, str) or not 1 <= len(value) <= 100 or CONTROL_CHARACTERS.search(value):
        raise ValueError("must be a string of 1 to 100 characters, without control characters")
    if value != value.strip():
        raise ValueError("must not begin or end with space")
    return value


class NewService(Body):
    """The body of a create."""

    id: Annotated[int | None, PlainValidator(read_callers_id)] = None
    name: Annotated[str, PlainValidator(read_service_name)]


class ServiceRenaming(Body):
    """The body of a PUT: only the name can be changed."""

    name: Annotated[str, PlainValidator(read_service_name)]
