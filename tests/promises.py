"""The contract, read once for all tests of a process: nobody changes it."""

from __future__ import annotations

from contract.checks.document import load
from contract.checks.validation import Schemas

CONTRACT = load()
SCHEMAS = Schemas(CONTRACT)
