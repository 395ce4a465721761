"""The contract and its schemas, read once per process and never changed by a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contract.checks.document import load
from contract.checks.validation import Schemas

CONTRACT = load()
SCHEMAS = Schemas(CONTRACT)


def is_problem(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema describes one problem type, as the body of an error response."""
    kind = schema.get("properties", {}).get("type", {}).get("const", "")
    return str(kind).startswith("/problems/")
