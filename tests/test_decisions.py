"""The decision records have one format, and their index agrees with them."""

from __future__ import annotations

import re
from datetime import date

from tests.processes import ROOT

FOLDER = ROOT / "docs" / "decisions"
RECORDS = {path.name: path.read_text() for path in sorted(FOLDER.glob("[0-9]*.md"))}
INDEX = (FOLDER / "README.md").read_text()
LONGEST_RECORD_LINES = 45

HEAD = re.compile(
    r"# (?P<number>\d{4})\. (?P<title>[^\n]+)\n\n"
    r"- Status: (?P<status>accepted|superseded by (?P<successor>\d{4}))\n"
    r"- Date: (?P<date>[\d-]{10})(, (?:revised|extended) (?P<revised>[\d-]{10}))?\n\n"
    r"## Context\n"
)
QUOTE = re.compile(r"\n## Decision\n\n\*\*(.+?)\*\*", re.DOTALL)
PARTS = ["Context", "Decision", "Alternatives", "Measurement"]


def _head(name: str) -> re.Match[str]:
    head = HEAD.match(RECORDS[name])
    assert head, name
    return head


def test_decision_records_are_numbered_from_one_without_a_gap() -> None:
    """In their file names, and in their titles."""
    numbers = [f"{number:04}" for number in range(1, len(RECORDS) + 1)]
    assert [name[:5] for name in RECORDS] == [f"{number}-" for number in numbers]
    assert [_head(name)["number"] for name in RECORDS] == numbers


def test_every_decision_record_has_the_same_parts_and_fits_on_a_page() -> None:
    """The parts that the index describes, in its order, and not one is empty."""
    for name, text in RECORDS.items():
        parts = re.findall(r"^## (.+)\n\n(?=[^#\n])", text, re.MULTILINE)
        assert parts in (PARTS, [*PARTS, "Consequences"]), name
        assert len(text.splitlines()) <= LONGEST_RECORD_LINES, name


def test_every_decision_record_has_dates_in_order_and_a_successor_that_exists() -> None:
    """A record that was superseded names the one that took its place."""
    numbers = {name[:4] for name in RECORDS}
    for name in RECORDS:
        head = _head(name)
        decided = date.fromisoformat(head["date"])
        assert decided <= date.fromisoformat(head["revised"] or head["date"]), name
        assert head["successor"] is None or head["successor"] in numbers - {head["number"]}, name


def test_the_index_lists_every_decision_record_with_its_title_first_sentence_and_status() -> None:
    """In the order of their numbers, and nothing else."""
    expected = []
    for name, text in RECORDS.items():
        head, quote = _head(name), QUOTE.search(text)
        assert quote, name
        sentence = " ".join(quote[1].split())
        expected.append(f"| [{head['number']}]({name}) | {head['title']} | {sentence} | {head['status']} |")
    assert re.findall(r"^\| \[.*$", INDEX, re.MULTILINE) == expected


def test_every_link_between_decision_records_leads_to_a_file() -> None:
    """Relative to the folder of the records."""
    links = [link for text in (*RECORDS.values(), INDEX) for link in re.findall(r"\]\(([^)#]+)\)", text)]
    assert links
    assert [link for link in links if not (FOLDER / link).exists()] == []
