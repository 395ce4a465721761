"""The README and the documents beside it agree with the project."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.import_steps import import_sample
from tests.processes import ROOT
from tests.walkthroughs import MAKEFILE, check_steps, steps_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Pipeline

README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MOST_WORDS = 1_600
(WALK,) = [
    f"```console\n{block}```"
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    if "curl" in block
]


def test_the_readme_can_be_read_in_one_sitting() -> None:
    """Counted as ``wc -w`` does. More belongs in a document beside it."""
    assert len(README.split()) <= MOST_WORDS


def _anchors(document: Path) -> set[str]:
    """The names by which GitHub links to a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_to_a_file_and_a_heading(document: Path) -> None:
    """Relative links and their anchors are followed."""
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_every_make_command_of_a_document_is_a_target_of_the_makefile() -> None:
    """With the variables that are set for it."""
    commands = [
        command
        for document in DOCUMENTS
        for command in re.findall(
            r"(?:`(?:[A-Z_]+=[^ `]+ )*|\$ )make ([a-z-]+)((?: [A-Z_]+=)?)", document.read_text()
        )
    ]
    assert {"run", "test", "har", "verify"} <= {target for target, _ in commands}
    for target, setting in commands:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
        variable = setting.strip(" =")
        known = f"$({variable})" in MAKEFILE or re.search(
            rf"^{target}:.*\b{variable}=", MAKEFILE, re.MULTILINE
        )
        assert known or not variable, (target, variable)


def test_every_check_of_the_makefile_installs_what_it_needs() -> None:
    """The contract's tools import packages of the development lock, which `make run` does not install."""
    rules = re.findall(r"^([a-z-]+):([^\n#]*).*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    needing = {target: needs for target, needs, recipe in rules if "-m contract." in recipe}
    assert {"har", "contract-static"} <= set(needing)
    assert all("dev.stamp" in needs for needs in needing.values())


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_every_command_of_the_walk_through_prints_what_the_readme_shows(pipeline: Pipeline) -> None:
    """On the sample data, in the README's order, through the queue and a real worker."""
    pipeline.database.clean()  # the sample brings its services
    import_sample(database=pipeline.database.url).check_returncode()
    commands = [command.split()[0] for command, _ in steps_of(WALK)]
    assert commands == ["curl", "curl", "curl", "curl", "make"]
    check_steps(pipeline, WALK)
