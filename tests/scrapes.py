"""Reading what a process serves to Prometheus, and what the documentation says of it."""

from __future__ import annotations

import re

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import ROOT

DOCUMENTATION = (ROOT / "docs" / "metrics.md").read_text()


class Metrics(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Samples of one answer, by name and labels."""

    def of(self, name: str, **labels: str) -> float:
        """Return a sample's value; 0 if there is none."""
        return self.get((name, frozenset(labels.items())), 0)

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a name that have these labels."""
        return sum(value for (n, have), value in self.items() if n == name and labels.items() <= set(have))

    def names(self) -> set[str]:
        """Return the names of all samples."""
        return {name for name, _ in self}


def read_metrics(text: str) -> Metrics:
    """Read an answer."""
    return Metrics(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )


def scrape(port: int) -> Metrics:
    """Read the metrics of a relay or a worker of this machine."""
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=5)
    answer.raise_for_status()
    return read_metrics(answer.text)


def kinds_and_labels(text: str) -> set[tuple[str, str, str]]:
    """Return the name, type and labels of each metric in an answer; all have a sentence about them."""
    shown = set()
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = [label for label in family.samples[0].labels if label != "le"]
        shown.add((name, family.type, ", ".join(sorted(labels))))
        assert family.documentation.endswith("."), name
    return shown


def documented(*sections: str) -> set[tuple[str, str, str]]:
    """Return the name, type and labels of each metric in these sections of the documentation."""
    return {
        (name, kind, ", ".join(sorted(re.findall(r"`(\w+)`", labels))))
        for section in sections
        for name, kind, labels in re.findall(
            r"^\| `(\w+)` \| (counter|gauge|histogram) \| ([^|]*)\|",
            DOCUMENTATION.partition(f"## Of {section}\n")[2].partition("\n## ")[0],
            re.MULTILINE,
        )
    }
