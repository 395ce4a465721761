"""``docs/configuration.md`` names every variable, with what the code says about it."""

from __future__ import annotations

import re

import pytest

from shared.settings import PREFIX, Settings
from shared.settings_reference import docstrings, with_table
from stack.plan import Plan
from tests.processes import ROOT

REFERENCE = (ROOT / "docs" / "configuration.md").read_text()


def test_the_configuration_reference_is_what_make_docs_writes() -> None:
    """A setting that is added, removed or changed shows up here."""
    assert with_table(REFERENCE) == REFERENCE


def test_the_configuration_reference_names_every_setting_with_its_default() -> None:
    """Read out of the file, without the code that writes it."""
    named = re.findall(rf"^\| `({PREFIX}[A-Z_]+)` \| ([^|]+) \|", REFERENCE, re.MULTILINE)
    assert named == [
        (
            PREFIX + name.upper(),
            "required" if field.is_required() else f"`{field.default}`" if field.default != "" else "empty",
        )
        for name, field in Settings.model_fields.items()
    ]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_docstring(name: str) -> None:
    """Without one, its line in the reference would say nothing."""
    assert docstrings()[name].endswith(".")


@pytest.mark.parametrize(
    ("line", "accepts"),
    [
        ("OMS_LOG_FORMAT", "`text`, `json`"),
        ("OMS_REQUIRE_IF_MATCH", "`yes`, `no`"),
        ("OMS_POOL_SIZE", "1 to 64"),
        ("OMS_LOCK_WAIT", "0.001 to 60 seconds"),
        ("OMS_WEBHOOK_TIMEOUT", "more than 0, up to 15 seconds"),
    ],
)
def test_the_configuration_reference_says_what_a_setting_accepts(line: str, accepts: str) -> None:
    assert re.search(rf"^\| `{line}` \| [^|]+ \| {re.escape(accepts)} \|", REFERENCE, re.MULTILINE)


def test_a_document_without_a_place_for_the_table_of_settings_is_refused() -> None:
    """Nothing is written to a file that is not the reference."""
    with pytest.raises(ValueError, match="two markers"):
        with_table("# Something else\n")


def test_the_configuration_reference_names_the_defaults_of_make_run() -> None:
    """Its own five variables are no settings of a process."""
    section = REFERENCE[REFERENCE.index("## `make run`") :]
    named = dict(re.findall(r"^\| `([A-Z_]+)` \| `([^|]+)` \|", section, re.MULTILINE)[:5])
    plan = Plan.read({})
    assert named == {
        "PORT": str(plan.port),
        "STATE_DIR": str(plan.state),
        "API": str(plan.api),
        "WORKERS": str(plan.workers),
        "SAMPLE_DATA": "yes" if plan.sample_data else "no",
    }
    assert not Plan.read({"OMS_DATABASE_URL": "postgres://db/orders"}).sample_data
