"""The bodies of requests about services."""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainValidator

from api.http.bodies import Body, ReadOnly
from api.http.fields import read_callers_id, read_id
from api.http.texts import visible_text

read_service_name = visible_text(100)
"""Read a service's name."""


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
