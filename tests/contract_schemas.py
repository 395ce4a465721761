"""The contract and its schemas, read once per process and never changed by a test."""

from __future__ import annotations

from contract.checks.document import load
from contract.checks.validation import Schemas

CONTRACT = load()
SCHEMAS = Schemas(CONTRACT)
