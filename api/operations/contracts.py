"""The contracts: ``/openapi.yaml``, ``/openapi.json``, ``/asyncapi.yaml``.

``contract/openapi.yaml`` is written by hand and is authoritative. It is served byte for byte, except that a
cell puts its own name into the ``source`` of notifications; as JSON it is the same document.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from litestar import Response, route

from api.http.json_text import encode
from api.http.request import READ
from api.http.responses import BytesResponse
from shared.settings import settings

CONTRACT = Path(__file__).parent.parent.parent / "contract" / "openapi.yaml"
EVENTS = CONTRACT.with_name("asyncapi.yaml")

YAML = "application/yaml"


# As the value of ``source`` in YAML and JSON, also within a text in quotes; and as the constant in a schema.
_SOURCE = re.compile(rb'\b(source\\?"?: ?\\?"?|source:\n +type: string\n +const: )(/orders|/webhooks)\b(?!/)')


def _as_served(document: Path) -> bytes:
    cell = settings().cell
    return (
        _SOURCE.sub(rf"\1/cells/{cell}\2".encode(), document.read_bytes()) if cell else document.read_bytes()
    )


@cache
def contract_bytes() -> bytes:
    """Return the contract, byte for byte; in a cell, with its name in the sources of notifications."""
    return _as_served(CONTRACT)


def _as_json(value: Any) -> Any:
    # The YAML loader turns text that looks like a date into a date; JSON has no dates.
    match value:
        case dict():
            return {str(key): _as_json(item) for key, item in value.items()}
        case list():
            return [_as_json(item) for item in value]
        case datetime() | date():
            return value.isoformat()
        case _:
            return value


@cache
def contract_json() -> bytes:
    """Return the contract as JSON."""
    # The C loader if there is one: the Python loader blocks all requests for about a second.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return encode(_as_json(yaml.load(contract_bytes(), Loader=loader)))  # noqa: S506 (both are safe)


@route("/openapi.yaml", http_method=READ, opt={"produces": (YAML,)})
async def show_contract_as_yaml() -> Response[bytes]:
    """Show the contract, byte for byte."""
    return BytesResponse(contract_bytes(), media_type=YAML)


@route("/openapi.json", http_method=READ)
async def show_contract_as_json() -> Response[bytes]:
    """Show the contract as JSON."""
    return BytesResponse(contract_json(), media_type="application/json")


@cache
def _events_bytes() -> bytes:
    return _as_served(EVENTS)


@route("/asyncapi.yaml", http_method=READ, opt={"produces": (YAML,)})
async def show_events_as_yaml() -> Response[bytes]:
    """Show the contract of the notifications, byte for byte."""
    return BytesResponse(_events_bytes(), media_type=YAML)


ROUTES = [show_contract_as_yaml, show_contract_as_json, show_events_as_yaml]
