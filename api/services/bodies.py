"""The bodies of requests about services."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

from pydantic import PlainValidator

from api.http.bodies import Body, ReadOnly
from api.http.fields import INVISIBLE_CHARACTERS, read_callers_id, read_id

_INVISIBLE = re.compile(f"[{INVISIBLE_CHARACTERS}]|[\ud800-\udfff]")


def read_service_name(value: object) -> str:
    """Read a service's name. What could make two names look the same is refused, not removed."""
    if not isinstance(value, str) or len(value) > 100:
        raise ValueError("must be a string of 1 to 100 characters")
    if not value.strip():
        raise ValueError("must not be blank")
    invisible = _INVISIBLE.search(value)
    if invisible:
        code = f"U+{ord(invisible[0]):04X} {unicodedata.name(invisible[0], '').lower()}".rstrip()
        raise ValueError(
            f"must contain only characters that can be seen; character {invisible.start() + 1} is {code}"
        )
    if value != value.strip():
        raise ValueError("must not begin or end with space")
    return value


class NewService(Body):
    """The body of a create."""

    id: Annotated[int | None, PlainValidator(read_callers_id)] = None
    name: Annotated[str, PlainValidator(read_service_name)]
    archived_at: ReadOnly = None
    created_at: ReadOnly = None
    updated_at: ReadOnly = None


class ServiceRenaming(NewService):
    """The body of a PUT: only the name can be changed."""

    id: Annotated[int | None, PlainValidator(read_id)] = None
