"""The contract, read once for all tests of a process: nobody changes it."""

from __future__ import annotations

from contract.document import load
from contract.validation import Schemas

CONTRACT = load()
SCHEMAS = Schemas(CONTRACT)
