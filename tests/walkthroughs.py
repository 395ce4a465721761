"""Commands in documents, each with the output that is shown: run on a system of a test's, and compared."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import TYPE_CHECKING

from tests.processes import ROOT, run_command

if TYPE_CHECKING:
    from tests.drivers import Pipeline

MAKEFILE = (ROOT / "Makefile").read_text()
HERE = "http://127.0.0.1:8000"


def steps_of(document: str) -> list[tuple[str, str]]:
    """Return the commands of a document's walk-through, each with the output that is shown."""
    blocks = [
        block
        for block in re.findall(r"```console\n(.*?)```", document, re.DOTALL)
        if HERE in block or "make " in block
    ]
    steps = [step for block in blocks for step in re.split(r"^\$ ", block, flags=re.MULTILINE) if step]
    # JSON begins in the first column; what is sent is indented.
    parts = [step.partition("\n{") if "curl" in step else step.partition("\n") for step in steps]
    return [(command, brace.strip() + shown) for command, brace, shown in parts]


def run_step(pipeline: Pipeline, command: str) -> str:
    """Run a command of a walk-through, and return what it prints."""
    words = shlex.split(command)
    database = pipeline.database.url
    match words:
        case ["make", "verify"]:
            return run_command("oms", "verify", database=database).stdout.replace("\n", "")
        case ["make", "import", *variables]:
            given = dict(variable.split("=", 1) for variable in variables)
            file = given.pop("FILE")
            options = [word for name, value in given.items() for word in (f"--{name.lower()}", value)]
            return run_command("oms", "import", file, *options, database=database).stdout
        case _:
            assert HERE in command
            return subprocess.run(
                ["/bin/sh", "-c", command.replace(HERE, pipeline.api.url)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout


def pattern_of(shown: str) -> re.Pattern[str]:
    """Make a pattern of what a document shows: ``…`` matches anything, and lines may break anywhere."""
    shown = re.sub(r"\n *", "", shown.strip())
    return re.compile(".*?".join(map(re.escape, shown.split("…"))), re.DOTALL)


def check_steps(pipeline: Pipeline, document: str) -> None:
    """Run every command of a walk-through in its order, and compare what each prints with what is shown."""
    for command, shown in steps_of(document):
        printed = run_step(pipeline, command)
        assert pattern_of(shown).fullmatch(printed.strip()), f"{command}\n{printed}"
