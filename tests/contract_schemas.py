"""The contract and its schemas, read once per process and never changed by a test."""

from __future__ import annotations

from contract.document import load
from contract.validation import Schemas

CONTRACT = load()
SCHEMAS = Schemas(CONTRACT)
