"""How the API serves requests: time limits, and how many at once."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from shared.setting_values import Seconds, YesOrNo


class RequestSettings(BaseModel):
    """How the API serves requests: time limits, and how many at once."""

    connections: Annotated[int, Field(ge=100, le=100_000)] = 4_000
    """Connections that one API process accepts, idle ones included; fewer where it may open fewer files.

    When almost all are taken, connections without a request are closed, the longest silent ones first.
    """

    header_timeout: Seconds = 10
    """How long a new connection may take to send the header of its first request, before it is closed."""

    idle_timeout: Seconds = 75
    """How long a connection stays open after an answer, until its next request's header is complete."""

    body_timeout: Seconds = 30
    """How long the body of a request may take to arrive, before it is answered 408.

    It may send nothing, or less than 1,000 bytes a second, for a third of this.
    """

    drain: Annotated[float, Field(ge=0, le=15)] = 0
    """How long the API serves on after SIGTERM, while ``/health/ready`` is 503 and answers close connections.

    Where ``KUBERNETES_SERVICE_HOST`` is set, the default is 5.
    """

    pool_size: Annotated[int, Field(ge=1, le=64)] = 6
    """Database connections of one API process. 4 to 8 suit two cores."""

    pool_wait: Seconds = 5
    """How long a request waits for a database connection before it is answered 503.

    Or for the statement that it will share with other reads. If it would wait longer, it is answered at once.
    """

    statement_timeout: Seconds = 15
    """PostgreSQL cancels any statement that runs longer.

    It is also the limit for retries: a request that still cannot get a lock after this time is answered 503.
    """

    lock_wait: Annotated[float, Field(ge=0.001, le=60)] = 0.1
    """How long a statement of a request waits for a lock before its transaction is rolled back.

    The request returns its connection to the pool, pauses, and tries again.
    """

    require_if_match: YesOrNo = Field("no", validate_default=True)
    """``yes``: PUT, PATCH and DELETE of an order require ``If-Match``; without it they are answered 428."""

    @model_validator(mode="before")
    @classmethod
    def _drain_under_kubernetes(cls, values: dict[str, Any]) -> dict[str, Any]:
        # Kubernetes sends SIGTERM while requests still arrive: it takes the address away at the same time.
        return {"drain": 5, **values} if "KUBERNETES_SERVICE_HOST" in os.environ else values
