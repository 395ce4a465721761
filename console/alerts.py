"""The alerts of ``docs/operations/alerts.yaml``: at which figure somebody is called, and what to do then."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

_FILE = Path(__file__).parent.parent / "docs" / "operations" / "alerts.yaml"
_LIMIT = re.compile(r"\s(?P<sign>>|==)\s(?P<number>[0-9.]+)")


@dataclass(frozen=True)
class Alert:
    """A rule. It fires when its figure is on the wrong side of the limit for some time."""

    name: str
    sign: str
    limit: float
    duration: str
    severity: str
    runbook: str

    def fires_for(self, value: float) -> bool:
        """Return whether a figure is on the wrong side of the limit."""
        return value == self.limit if self.sign == "==" else value > self.limit


@cache
def alerts() -> dict[str, Alert]:
    """Read the rules, by name; of several conditions, which have one limit each, the first."""
    rules = [rule for group in yaml.safe_load(_FILE.read_text())["groups"] for rule in group["rules"]]
    return {rule["alert"]: _read(rule) for rule in rules}


def _read(rule: dict[str, object]) -> Alert:
    match = _LIMIT.search(str(rule["expr"]))
    if match is None:
        raise ValueError(f"{rule['alert']}: its expression has no limit")
    labels, annotations = rule["labels"], rule["annotations"]
    return Alert(
        str(rule["alert"]),
        match["sign"],
        float(match["number"]),
        str(rule.get("for", "")),
        labels["severity"],  # type: ignore[index]  # a mapping in every rule
        annotations["runbook_url"],  # type: ignore[index]  # as above
    )
