"""The README and the documents beside it agree with the project."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.import_steps import import_sample
from tests.processes import ROOT, run_command

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Pipeline

README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MAKEFILE = (ROOT / "Makefile").read_text()
MOST_WORDS = 1_600
HERE = "http://127.0.0.1:8000"


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


def _steps() -> list[tuple[str, str]]:
    """The commands of the README's walk-through, each with the output that is shown."""
    (walk,) = [block for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL) if "curl" in block]
    steps = [step.partition("\n{") if "curl" in step else step.partition("\n") for step in walk.split("$ ")]
    return [(command, brace.strip() + shown) for command, brace, shown in steps if command]


def _shown_as(shown: str) -> re.Pattern[str]:
    """Make a pattern of what the README shows: ``…`` matches anything, and lines may break anywhere."""
    shown = re.sub(r"\n *", "", shown.strip())
    return re.compile(".*?".join(map(re.escape, shown.split("…"))), re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_every_command_of_the_walk_through_prints_what_the_readme_shows(pipeline: Pipeline) -> None:
    """On the sample data, in the README's order, through the queue and a real worker."""
    pipeline.database.clean()  # the sample brings its services
    import_sample(database=pipeline.database.url).check_returncode()
    steps = _steps()
    assert [command.split()[0] for command, _ in steps] == ["curl", "curl", "curl", "curl", "make"]
    for command, shown in steps:
        if command == "make verify":
            (modules,) = re.findall(r"^verify:.*\n\t.*for proof in (.+); do", MAKEFILE, re.MULTILINE)
            printed = "".join(
                run_command(module, database=pipeline.database.url).stdout.strip()
                for module in modules.split()
            )
        else:
            assert HERE in command
            printed = subprocess.run(
                ["/bin/sh", "-c", command.replace(HERE, pipeline.api.url)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        assert _shown_as(shown).fullmatch(printed.strip()), f"{command}\n{printed}"
