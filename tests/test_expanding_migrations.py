"""Migrations only add, so that the release before works on the new schema (see CONTRIBUTING)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.processes import ROOT
from tests.test_versions import RELEASES

FOLDER = ROOT / "shared" / "database" / "migrations"
RELEASED_BEFORE_THE_RULE = "shared_2026_11_29t13_20_00"
"""The last migration of 3.0.0."""

NEW = sorted(
    path
    for path in FOLDER.glob("shared_*")
    if path.suffix in {".py", ".sql"}
    and path.stem[: len(RELEASED_BEFORE_THE_RULE)] > RELEASED_BEFORE_THE_RULE
)

CONTRACTS = re.compile(r"Contracts: .+, unused since (\d+\.\d+\.\d+)\.")
"""In a migration that takes something away: what, and the release whose code no longer uses it."""

_TAKING_AWAY = {
    # An index is made again after an interrupted CONCURRENTLY; without one, statements are slower but right.
    "drops": r"\bDROP\s+(?!INDEX\b|NOT\s+NULL\b|DEFAULT\b|EXPRESSION\b)\w+",
    "renames": r"\bRENAME\b",
    "requires a value": r"\bSET\s+NOT\s+NULL\b",
    "has no default for": r"\bADD\s+COLUMN\b(?=[^,;]*\bNOT\s+NULL\b)(?![^,;]*\b(?:DEFAULT|GENERATED)\b)",
    "changes the type of": r"\bALTER\s+COLUMN\s+\w+\s+(?:SET\s+DATA\s+)?TYPE\b",
    "revokes": r"\bREVOKE\b",
    "takes away with Piccolo": r"\bmanager\.(?:drop_\w+|rename_\w+|alter_column|change_table_schema)\b",
}
_REPLACED_CONSTRAINT = r"\bDROP\s+CONSTRAINT\s+(?:IF\s+EXISTS\s+)?(\w+)"
_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


def taken_away(text: str) -> list[str]:
    """List how a migration takes something away from releases that do not know it."""
    statements = _COMMENTS.sub("", text)
    for name in re.findall(_REPLACED_CONSTRAINT, statements, re.IGNORECASE):
        # Made again, for instance with one more value that is allowed.
        if re.search(rf"\bADD\s+CONSTRAINT\s+{name}\b", statements, re.IGNORECASE):
            statements = re.sub(rf"\bDROP\s+CONSTRAINT\s+(?:IF\s+EXISTS\s+)?{name}\b", "", statements)
    return [what for what, how in _TAKING_AWAY.items() if re.search(how, statements, re.IGNORECASE)]


@pytest.mark.parametrize("path", NEW, ids=lambda path: path.name)
def test_a_migration_takes_nothing_away_that_the_release_before_uses(path: Path) -> None:
    """One that does says since which release nothing uses it, and which releases it locks out."""
    text = path.read_text(encoding="utf-8")
    contracts = CONTRACTS.search(text)
    if contracts is None:
        assert taken_away(text) == []
        return
    assert contracts[1] in {version for version, _ in RELEASES}
    assert "CREATE OR REPLACE FUNCTION oldest_compatible_migration" in text


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("ALTER TABLE orders DROP COLUMN note", "drops"),
        ("alter table orders drop note", "drops"),
        ("DROP TABLE IF EXISTS service", "drops"),
        ("DROP FUNCTION order_json(orders)", "drops"),
        ("ALTER TABLE orders DROP CONSTRAINT orders_status", "drops"),
        ("ALTER TABLE orders RENAME COLUMN note TO remark", "renames"),
        ("ALTER TABLE orders RENAME TO bookings", "renames"),
        ("ALTER TABLE orders ALTER COLUMN note SET NOT NULL", "requires a value"),
        (
            "ALTER TABLE orders ADD COLUMN note text NOT NULL, ADD COLUMN more text DEFAULT ''",
            "has no default for",
        ),
        ("ALTER TABLE orders ALTER COLUMN id TYPE text", "changes the type of"),
        ("REVOKE SELECT ON orders FROM PUBLIC", "revokes"),
        ("manager.drop_column(table_class_name='Order', column_name='note')", "takes away with Piccolo"),
    ],
)
def test_what_a_migration_takes_away_is_noticed(statement: str, what: str) -> None:
    """In SQL and in Piccolo's operations."""
    assert taken_away(statement) == [what]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE orders ADD COLUMN note text",
        "ALTER TABLE orders ADD COLUMN note text NOT NULL DEFAULT ''",
        "ALTER TABLE orders ALTER COLUMN note DROP NOT NULL",
        "DROP INDEX CONCURRENTLY IF EXISTS orders_reference",
        "ALTER TABLE k DROP CONSTRAINT k_scopes, ADD CONSTRAINT k_scopes CHECK (true)",
        "-- nothing is dropped: DROP TABLE orders\nCREATE TABLE note (id int NOT NULL)",
    ],
)
def test_a_migration_that_only_adds_is_accepted(statement: str) -> None:
    """Also one that allows more than before."""
    assert taken_away(statement) == []
