"""The README says what is so."""

from __future__ import annotations

import re

from shared.settings import PREFIX, Settings
from tests.processes import ROOT

README = (ROOT / "README.md").read_text()


def test_the_configuration_table_names_every_setting_with_its_default() -> None:
    """A setting that is added, removed or changed shows up here."""
    named = dict(re.findall(rf"^\| `({PREFIX}[A-Z_]+)` \| ([^|]+) \|", README, re.MULTILINE))
    expected = {
        PREFIX + name.upper(): "required"
        if field.is_required()
        else f"`{field.default}`".replace("``", "empty")
        for name, field in Settings.model_fields.items()
    }
    assert {name: default.strip() for name, default in named.items()} == expected


def test_every_file_that_the_readme_links_to_exists() -> None:
    """No link leads nowhere."""
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
