"""The README says what is so."""

from __future__ import annotations

import re

from tests.processes import ROOT

README = (ROOT / "README.md").read_text()


def test_every_file_that_the_readme_links_to_exists() -> None:
    """No link leads nowhere."""
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


MAKEFILE = (ROOT / "Makefile").read_text()


def test_every_command_of_the_readme_is_a_target_of_the_makefile() -> None:
    """With the variables that it is given."""
    commands = re.findall(r"(?:`(?:[A-Z_]+=[^ `]+ )?|\$ )make ([a-z-]+)((?: [A-Z_]+=)?)", README)
    assert {"run", "test", "har", "verify"} <= {target for target, _ in commands}
    for target, variable in commands:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
        assert f"$({variable.strip(' =')})" in MAKEFILE or not variable, (target, variable)


def test_every_check_of_the_makefile_installs_what_it_needs() -> None:
    """The contract's tools import packages of the development lock, which `make run` does not install."""
    rules = re.findall(r"^([a-z-]+):([^\n#]*).*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    needing = {target: needs for target, needs, recipe in rules if "-m contract." in recipe}
    assert {"har", "contract-static"} <= set(needing)
    assert all("dev.stamp" in needs for needs in needing.values())
