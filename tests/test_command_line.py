"""``oms``: what every command has in common, and what its documentation says."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import typer

from oms.main import app
from shared.settings import OF_COMMANDS
from tests.command_steps import command_environment, oms
from tests.drivers import WAITING_FOR_LOCKS, Database, wait_until
from tests.processes import ROOT, run_command, run_on_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCUMENT = (ROOT / "docs" / "commands.md").read_text()


def _commands(command: Any, name: str = "oms") -> Iterator[tuple[str, Any]]:
    """Return each command that does something, with its full name."""
    if hasattr(command, "commands"):
        for part, nested in command.commands.items():
            yield from _commands(nested, f"{name} {part}")
    else:
        yield name, command


COMMANDS = dict(_commands(typer.main.get_command(app)))


def test_help_is_immediate_and_loads_nothing_of_the_service() -> None:
    """Less than 0.3 s of processor time; the rest is loaded by the command that needs it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = oms("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shown.returncode == 0
    assert all(re.search(rf"^  {name.split()[1]} ", shown.stdout, re.MULTILINE) for name in COMMANDS)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
    loaded = (
        "import sys, oms.main; print({name.partition('.')[0] for name in sys.modules} & "
        "{'api', 'worker', 'stack', 'asyncpg', 'httpcore', 'litestar', 'piccolo', 'redis'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("group", ["", "key", "secret-key", "webhook"])
def test_help_lists_each_command_with_a_whole_sentence(group: str) -> None:
    """On a terminal of 80 columns."""
    _, listed = oms(*group.split(), "--help").stdout.split("Commands:\n")
    assert listed
    assert [line for line in listed.splitlines() if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.parametrize("arguments", [("--help",), ("secret-key", "make"), ("secret-key", "make", "--json")])
def test_output_that_can_not_be_written_is_an_error_in_a_sentence(arguments: tuple[str, ...]) -> None:
    """Such as a redirection to a full disk."""
    with open("/dev/full", "w") as full:  # noqa: PTH123 (not a file that a path should create)
        done = subprocess.run(
            [sys.executable, "-m", "oms", *arguments],
            cwd=ROOT,
            env=command_environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "the output can't be written: No space left on device\n")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_folder_that_can_not_be_made_is_refused_before_anything_starts(log_format: str) -> None:
    """In a sentence, or a JSON object with one."""
    folder = f"{__file__}/data"
    refused = oms("run", "--state-dir", folder, OMS_LOG_FORMAT=log_format)
    (line,) = refused.stderr.splitlines()
    text = line if log_format == "text" else json.loads(line)["event"]
    assert refused.returncode == 2
    assert text.startswith(f"make run: {folder} can't be used for the data (Not a directory); choose another")


def test_a_command_whose_standard_output_is_closed_says_so() -> None:
    """As under a supervisor, or with ``>&-``."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -m oms secret-key make >&-', sys.executable],
        cwd=ROOT,
        env=command_environment(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "the output can't be written: standard output is closed\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_documentation_names_every_option_of_a_command(name: str) -> None:
    """In the section of the command, or in that of the options which many have."""
    sections = dict(re.findall(r"^##+ `?([^`\n]+)`?\n(.*?)(?=^##|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL))
    section, common = sections[name], sections["Options of many commands"]
    for parameter in COMMANDS[name].params:
        options = [*parameter.opts, *parameter.secondary_opts]
        for option in (option for option in options if option.startswith("--") and option != "--help"):
            assert f"`{option}" in section or f"`{option}" in common, option


def test_the_documentation_names_no_command_or_option_that_does_not_exist() -> None:
    """Compared with what the commands accept."""
    named = re.findall(r"\boms ((?:key|secret-key|webhook) [a-z-]+|[a-z][a-z-]*)", DOCUMENT)
    assert named
    assert {f"oms {name}" for name in named} <= {*COMMANDS, "oms key", "oms secret-key", "oms webhook"}
    options = {option for command in COMMANDS.values() for p in command.params for option in p.opts}
    options |= {
        option for command in COMMANDS.values() for p in command.params for option in p.secondary_opts
    }
    known = {*options, "--version", "--install-completion", "--show-completion", "--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", DOCUMENT)) <= known


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("frobnicate",), 2, "No such command 'frobnicate'"),
        (("import",), 2, "Missing argument"),
        (("verify", "everything"), 2, "Invalid value for 'subject': 'everything' is not one of"),
        (("verify", "--state-dir", "/no/such/folder"), 2, "no system is running in /no/such/folder"),
        (("verify", "--state-dir", __file__), 2, f"no system is running in {__file__}"),
        (("export", "orders.xml"), 2, "--format is needed"),
        (("export", "/no/such/folder/orders.csv", "--server", "http://127.0.0.1:1"), 1, "can't be reached"),
        (("webhook", "list", "--server", "ftp://localhost"), 2, "--server must be a URL"),
        (("webhook", "list", "--server", "http://user:password@localhost"), 2, "--server must be a URL"),
        (("webhook", "list", "--key", "two words"), 2, "a key has letters"),
        (("webhook", "list", "--key-file", "/no/such/file"), 2, "No such file"),
        (("listen", "--forward-to", "localhost:3000"), 2, "--forward-to must be a URL"),
        (("replay", "1"), 2, "choose one of"),
        (("replay", "1", "--since", "yesterday"), 2, "--since must be a time with a zone"),
        (("webhook", "list", "--server", f"http://{'x' * 70}.test"), 1, "can't be reached"),
    ],
)
def test_what_a_person_does_wrong_is_said_in_a_sentence(
    arguments: tuple[str, ...], status: int, sentence: str, tmp_path: Path
) -> None:
    """On standard error; with --json in a document on standard output. There is never a stack trace."""
    folder = {"STATE_DIR": str(tmp_path)}
    shown = oms(*arguments, **folder)
    assert (shown.returncode, shown.stdout) == (status, ""), shown.stderr
    assert sentence in shown.stderr
    document = oms(*arguments, "--json", **folder)
    assert (document.returncode, document.stderr) == (status, "")
    assert sentence in json.loads(document.stdout)["error"]
    logged = oms(*arguments, **folder, OMS_LOG_FORMAT="json")
    (line,) = logged.stderr.splitlines()
    assert sentence in json.loads(line)["event"]


def _is_idle(process_id: int) -> bool:
    """Return whether a process uses no CPU for a moment."""
    process = psutil.Process(process_id)
    before = process.cpu_times()
    time.sleep(0.3)
    return process.status() == psutil.STATUS_SLEEPING and process.cpu_times() == before


def test_interrupted_with_ctrl_c_a_command_is_quiet_and_its_status_is_130(
    tmp_path: Path, postgres_url: str
) -> None:
    """Here it waits for a file that nobody writes."""
    file = tmp_path / "orders.json"
    os.mkfifo(file)
    process = subprocess.Popen(
        [sys.executable, "-m", "oms", "import", str(file)],
        cwd=ROOT,
        env=command_environment(OMS_DATABASE_URL=postgres_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    # Opening it for writing succeeds once the command reads.
    writer = 0

    def is_reading() -> bool:
        nonlocal writer
        try:
            writer = os.open(file, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        return True

    try:
        wait_until(is_reading, "the command opens the file", 20)
        # A signal that arrives just before it begins to read is noticed only when the read ends.
        wait_until(lambda: _is_idle(process.pid), "it waits for the content", 20)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    finally:
        os.close(writer)
        process.kill()
    assert (process.returncode, output) == (130, b"")


def test_interrupted_while_the_database_works_a_command_cancels_it(
    database: Database, postgres_url: str
) -> None:
    """Here a proof waits for a lock: within a moment neither the command nor its session is left."""
    waiting = f"SELECT count(*) {WAITING_FOR_LOCKS} AND relation = 'orders'::regclass"

    with Database(postgres_url) as holder:
        holder.run_script("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        process = subprocess.Popen(
            [sys.executable, "-m", "oms", "verify", "summaries"],
            cwd=ROOT,
            env=command_environment(OMS_DATABASE_URL=postgres_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda: database.value(waiting) == 1, "it waits", 20)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=20)
            wait_until(lambda: database.value(waiting) == 0, "it is cancelled", 5)
        finally:
            process.kill()
            holder.run_script("ROLLBACK")
    assert (process.returncode, output) == (130, b"")


def test_colours_are_shown_on_a_terminal_only_and_never_with_no_color(postgres_url: str) -> None:
    """``doctor`` has some."""
    plain = oms("doctor", OMS_DATABASE_URL=postgres_url)
    assert "\x1b[" not in plain.stdout
    code = "import pty, sys; sys.exit(pty.spawn([sys.executable, '-m', 'oms', 'doctor']))"
    for more, is_coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=command_environment(OMS_DATABASE_URL=postgres_url, **more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=50,
            check=False,
        )
        assert b"versions: " in done.stdout
        assert (b"\x1b[3" in done.stdout) == is_coloured, more


def test_a_command_without_a_terminal_shows_no_progress(postgres_url: str, database: Database) -> None:
    """Also one that is fast enough shows none on a terminal."""
    del database
    assert run_on_terminal("verify", database=postgres_url).stderr == ""


def test_the_variables_of_the_command_line_keep_no_process_from_starting(postgres_url: str) -> None:
    """Although an unknown OMS_ variable does; the reference of variables names them."""
    mine = dict.fromkeys(OF_COMMANDS, "x")
    assert run_command("shared.settings", database=postgres_url, **mine).returncode == 0
    reference = (ROOT / "docs" / "configuration.md").read_text()
    assert all(f"`{name}`" in reference for name in OF_COMMANDS)


def test_completion_offers_commands_and_options() -> None:
    """As the script that ``--install-completion`` writes asks for it."""
    for words, offered in (
        ("oms ver", "verify"),
        ("oms webhook rot", "rotate-secret"),
        ("oms key make --sc", "--scopes"),
    ):
        done = oms(_OMS_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
        assert done.stdout.split() == [offered]


def test_the_script_runs_the_command_line_from_any_folder(tmp_path: Path) -> None:
    """With the project's virtual environment, and files relative to that folder."""
    done = subprocess.run(
        [str(ROOT / "bin" / "oms"), "import", "no-such-file.json"],
        cwd=tmp_path,
        env=command_environment(OMS_DATABASE_URL="postgresql://localhost/x", STATE_DIR=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "no-such-file.json: No such file or directory\n")
