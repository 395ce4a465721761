"""The bodies of requests about services."""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainValidator

from api.http import fields
from api.http.bodies import Body


class NewService(Body):
    """The body of a create."""

    id: Annotated[int | None, PlainValidator(fields.read_callers_id)] = None
    name: Annotated[str, PlainValidator(fields.read_service_name)]


class ServiceRenaming(Body):
    """The body of a PUT: only the name can be changed."""

    name: Annotated[str, PlainValidator(fields.read_service_name)]
