"""What a fuzzed service answered to each operation: a fuzzer that never succeeds tests only refusals."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from contract.checks.document import operations
from contract.checks.har import TrafficCheck
from contract.checks.recording import read_recording
from tests.contract_schemas import CONTRACT

if TYPE_CHECKING:
    from pathlib import Path

NOT_FUZZED = {"streamOrderChanges", "createKey", "getKey", "revokeKey", "rotateKey"}
"""The first as ``schemathesis.toml`` says. Keys can't be made without a key that the operator made."""


def report_statuses(recording: Path, url: str) -> set[str]:
    """Print how often each operation was answered with each status; return those that never succeeded."""
    answers: defaultdict[str, Counter[int]] = defaultdict(Counter)
    check = TrafficCheck(CONTRACT)
    for exchange in read_recording(recording.read_text(), url):
        _, operation, _ = check.match(exchange)
        if operation is not None:
            answers[operation.get("operationId")][exchange.status] += 1
    names = {operation.get("operationId") for _, _, operation in operations(CONTRACT)} - NOT_FUZZED
    for name in sorted(names):
        print(f"{name:24} {'  '.join(f'{status}: {n}' for status, n in sorted(answers[name].items()))}")
    return {name for name in names if not any(200 <= status < 300 for status in answers[name])}
