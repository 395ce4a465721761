"""Why a command about services is refused."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ServiceNotFoundError(Exception):
    """No service has this id."""

    service_id: int


@dataclass
class ServiceIdTakenError(Exception):
    """The id that a caller chose for a new service is another service's."""

    service_id: int


@dataclass
class ServiceNameTakenError(Exception):
    """Another service that is not archived has this name, ignoring case."""

    name: str
