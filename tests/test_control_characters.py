"""What callers and files hold reaches a terminal only escaped, from every process and command."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING

import pytest
import structlog

from contract.checks import har
from shared.command_output import print_line
from shared.control_characters import escape_control_characters
from shared.logs import configure_logs
from stack.process_output import ProcessOutput
from tests.processes import run_command
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.drivers import Database

HOSTILE = "\x1b[2J\x1b]0;title\x07 \x9b31m \u202egnp.exe \u2066x\u2069 \u200b \x7f \r\nforged \u2028 \ud800"
"""Clears the screen, sets the title, reverses text, hides it, forges a line; half a surrogate last."""

SENT = "%1B%5B2J%07%C2%9B31m%E2%80%AEgnp%E2%81%A6%7F%0D%0Aforged"


def is_harmless(text: str) -> bool:
    """Whether each line holds printable characters only."""
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_url_or_header_never_reaches_the_log_raw(
    log_format: str, database: Database, postgres_url: str, redis_url: str
) -> None:
    """Neither the path of a request, nor its id, nor the reason of a refusal."""
    del database
    with serving(database=postgres_url, redis=redis_url, OMS_LOG_FORMAT=log_format) as (api, process):
        for path in (f"/{SENT}", f"/services/{SENT}", f"/orders?{SENT}=1", f"/order-changes?after={SENT}"):
            api.client.get(path, headers={b"X-Request-Id": b"a\xc2\x9b2J\xe2\x80\xae"})
        process.stop()
        assert "gnp" in process.log
        assert is_harmless(process.log)
        assert "\nforged" not in process.log


@pytest.fixture
def as_text() -> Iterator[logging.Handler]:
    """The handler of all logs, as it is in text; afterwards the tests' own handlers are back."""
    root = logging.getLogger()
    before, level = root.handlers, root.level
    configure_logs()
    yield root.handlers[0]
    root.handlers = before
    root.setLevel(level)


def fail() -> None:
    """Raise an error that quotes what was sent."""
    raise ValueError(HOSTILE)


def test_an_errors_message_cannot_forge_a_line_of_the_log(
    as_text: logging.Handler, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines of a traceback are indented; only events begin a line."""
    as_text.setStream(sys.stdout)  # type: ignore[attr-defined]
    try:
        fail()
    except ValueError:
        structlog.get_logger("test").exception("failed\nforged", **{"na\x1bme": HOSTILE, "list": [HOSTILE]})
        logging.getLogger("celery").exception("Task %s failed", HOSTILE)
    printed = capsys.readouterr().out
    assert is_harmless(printed), ascii(printed)
    starts = [line for line in printed.splitlines() if line and not line.startswith("    ")]
    assert len(starts) == 2, starts
    assert "\\x1b[2J" in printed


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_command_prints_what_a_file_holds_escaped(
    log_format: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one line, which can be read back in JSON."""
    monkeypatch.setenv("OMS_LOG_FORMAT", log_format)
    print_line(HOSTILE)
    printed = capsys.readouterr().out
    assert is_harmless(printed)
    assert printed.count("\n") == 1
    if log_format == "json":
        assert json.loads(printed)["event"] == HOSTILE


def test_an_import_names_the_faults_of_a_hostile_file_escaped(
    database: Database, postgres_url: str, tmp_path: Path
) -> None:
    """Its members' names and values, and the file's own name."""
    del database
    file = tmp_path / "\x1b[2J\u202eorders.json"
    hostile = HOSTILE.removesuffix("\ud800")
    file.write_text(json.dumps([{hostile: hostile, "datetime": hostile, "services": [hostile]}]))
    for name in (file, tmp_path / "\x1b[2Jno-such\n.json"):
        done = run_command("oms", "import", str(name), database=postgres_url)
        assert done.returncode in (1, 2)
        assert done.stderr
        assert is_harmless(done.stdout + done.stderr), ascii(done.stderr)


def test_the_stack_prints_what_its_processes_print_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """Also a traceback that a process could not escape itself."""
    ProcessOutput(["api"]).print_line("api", HOSTILE)
    assert is_harmless(capsys.readouterr().out)


def test_a_recording_with_control_characters_is_reported_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A HAR file comes from somebody else."""
    file = tmp_path / "\x1b[2J.har"
    file.write_text("{")
    assert har.main([str(file), "--server", "http://x"]) == 2
    assert is_harmless(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("Gebühr 5 € 日本 \\x1b", "Gebühr 5 € 日本 \\x1b"),
        ("a\x00\x1b\x7f\x85\x9b", "a\\x00\\x1b\\x7f\\x85\\x9b"),
        ("\u200e\u202e\u2067\ufeff\u2028\u00ad", "\\u200e\\u202e\\u2067\\ufeff\\u2028\\xad"),
        ("a\tb\nc", "a\\tb\\nc"),
        ("\U000e0041 \udc80", "\\U000e0041 \\udc80"),
    ],
)
def test_only_characters_that_are_not_printable_are_escaped(text: str, escaped: str) -> None:
    """Letters of any language stay as they are."""
    assert escape_control_characters(text) == escaped
