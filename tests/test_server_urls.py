"""Malformed URLs of the servers are refused at start, in one line that never shows a password."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random
from urllib.parse import quote, unquote

import pytest

from shared.database.url import check_database_url
from shared.redis_address import read_redis_url
from tests.processes import ROOT, run_command
from tests.random_rounds import seeds

SECRET = "hunter2"

MALFORMED = {
    # What is wrong with any server's URL: what the message has to say.
    f"://:{SECRET}@x/w:rd@host:6379/0": "@ as %40, / as %2F",
    f"://:{SECRET}/word@host:6379/0": "/ as %2F",
    f"://:{SECRET}#word@host:6379/0": "# as %23",
    f"://:{SECRET}?word@host:6379/0": "? as %3F",
    f"://:{SECRET}%zz@host/0": "% as %25",
    f"://:{SECRET}%@host/0": "% as %25",
    f"://:{SECRET}%ff@host/0": "UTF-8",
    f"://:{SECRET}%0A@host/0": "control character",
    f"://:{SECRET} word@host/0": "a space as %20",
    f"://:{SECRET}[word]@host/0": "[ as %5B, ] as %5D",
    f"://:{SECRET}\\word@host/0": "\\ as %5C",
    f'://:{SECRET}"<>^`{{|}}@host/0': '" as %22',
    f"://:{SECRET}é@host/0": "%C3%A9",
    f"://:{SECRET}@host/0\n": "line break",
    f"://:{SECRET}\t@host/0": "control character",
    f"://:{SECRET}@host:99999/0": "from 1 to 65535",
    f"://:{SECRET}@host:0/0": "from 1 to 65535",
    f"://:{SECRET}@host:abc/0": "from 1 to 65535",
    f"://:{SECRET}@host:/0": "from 1 to 65535",
    f"://:{SECRET}@host:٣/0": "outside ASCII",
    f"://:{SECRET}@host:+1/0": "from 1 to 65535",
    f"://:{SECRET}@host:1:2/0": "more than one :",
    f"://:{SECRET}": "the host is missing",
    f"://:{SECRET}/word": "the host is missing",
    f"://:{SECRET}@:6379/0": "the host is missing",
    f"://:{SECRET}@/0": "the host is missing",
    f"://:{SECRET}@[::1/0": "in [ ]",
    f"://:{SECRET}@[nothing]/0": "IPv6",
    f"://:{SECRET}@ho st/0": "a space as %20",
    f"://:{SECRET}@host/0#x": "# as %23",
    f"://:{SECRET}@host/0?{SECRET}=1": "parameter 1 after the ? is unknown",
    f"://:{SECRET}@host/0?": None,
}

REDIS = {
    **{f"redis{url}": text for url, text in MALFORMED.items()},
    f"http://:{SECRET}@host/0": "redis://, rediss://, unix://, sentinel:// or sentinels://",
    f"//:{SECRET}@host": "redis://",
    f"{SECRET}": "redis://",
    "": "redis://",
    f"REDIS://:{SECRET}@host": "redis://",
    f"redis:/:{SECRET}@host": "redis://",
    f" redis://:{SECRET}@host": "redis://",
    f"redis://{SECRET}@host": ":password@",
    f"redis://:{SECRET}@host/x": "must be a number",
    f"redis://:{SECRET}@host/-1": "must be a number",
    f"redis://:{SECRET}@host/0/1": "must be a number",
    f"redis://:{SECRET}@host/0?db=1": "given twice",
    f"redis://:{SECRET}@host?db=1&db=1": "repeated",
    f"redis://:{SECRET}@host?db=": "no value",
    f"redis://:{SECRET}@host?db": "no value",
    f"redis://:{SECRET}@host?db=x": "must be a number",
    f"redis://:{SECRET}@one,two": "several hosts",
    f"redis://:{SECRET}@host?ssl_cert_reqs=none": "unknown",
    f"redis://:{SECRET}@host?master=x": "unknown",
    f"rediss://:{SECRET}@host?ssl_cert_reqs=maybe": "required, none",
    f"rediss://:{SECRET}@host?ssl_ca_certs=/no/such/file": "No such file",
    f"rediss://:{SECRET}@host?ssl_keyfile=/no/such/file": "ssl_certfile is missing",
    f"unix://:{SECRET}@host/path": "unix:///run/redis.sock",
    f"unix://:{SECRET}@": "unix:///run/redis.sock",
    "unix://": "unix:///run/redis.sock",
    f"sentinel://:{SECRET}@one,two/0": "?master=name",
    f"sentinel://:{SECRET}@one,,two?master=x": "the host is missing",
    f"sentinel://:{SECRET}@one;sentinel://two?master=x": "the host",
    f"sentinel://:{SECRET}@one?master=x&sentinel_username=y": "sentinel_password is missing",
}

DATABASE = {
    **{f"postgresql{url}": text for url, text in MALFORMED.items()},
    f"mysql://:{SECRET}@host/x": "postgresql:// or postgres://",
    f"postgresql://orders:{SECRET}@host/a/b": "/ as %2F",
    f"postgresql://orders:{SECRET}@host/x?sslmode=maybe": "verify-full",
    f"postgresql://orders:{SECRET}@host/x?sslmode=require&sslmode=require": "repeated",
    f"postgresql://orders:{SECRET}@host/x?sslrootcert=/no/such/file": "No such file",
    f"postgresql://orders:{SECRET}@host/x?port=99999": "from 1 to 65535",
    f"postgresql://orders:{SECRET}@host/x?target_session_attrs=x": "read-write",
    f"postgresql://orders:{SECRET}@/x": "the host is missing",
}


def assert_refused(message: str, expected: str | None) -> None:
    """Check that the message says what to do, in one line, and shows nothing secret."""
    if expected is not None:
        assert expected in message
    assert "\n" not in message
    assert SECRET not in message
    assert "word" not in message.replace("password", "")


@pytest.mark.parametrize(("url", "expected"), [item for item in REDIS.items() if item[1]])
def test_a_malformed_redis_url_is_refused_and_not_shown(url: str, expected: str) -> None:
    """The message says which character to escape, and as what."""
    with pytest.raises(ValueError, match=r"\w") as refused:
        read_redis_url(url)
    assert_refused(str(refused.value), expected)


@pytest.mark.parametrize(("url", "expected"), [item for item in DATABASE.items() if item[1]])
def test_a_malformed_database_url_is_refused_and_not_shown(url: str, expected: str) -> None:
    """The message says which character to escape, and as what."""
    with pytest.raises(ValueError, match=r"\w") as refused:
        check_database_url(url, environment={})
    assert_refused(str(refused.value), expected)


@pytest.mark.parametrize("seed", seeds(1))
def test_any_password_works_in_a_url_once_it_is_escaped(seed: int) -> None:
    """And one that is not escaped is read as it is, or refused: never as something else."""
    chance = Random(seed)
    for _round in range(500):
        characters = "aZ0-._~:/?#[]@!$&'()*+,;= %\\\"<>^`{|}é€"
        password = "".join(chance.choice(characters) for _ in range(chance.randint(1, 12)))
        address = read_redis_url(f"redis://:{quote(password, safe='')}@host:1/2")
        assert address.credentials == {"password": password}
        assert (address.hosts, address.database) == ((("host", 1),), 2)
        try:
            plain = read_redis_url(f"redis://:{password}@host:1/2")
        except ValueError:
            continue
        # One that looks percent-encoded means another password.
        assert (plain.credentials.get("password"), plain.hosts) == (unquote(password), (("host", 1),))


@pytest.mark.parametrize(
    ("url", "hosts", "database"),
    [
        ("redis://host", (("host", 6379),), 0),
        ("redis://host/", (("host", 6379),), 0),
        ("redis://redis_1.internal.:7/15", (("redis_1.internal.", 7),), 15),
        ("redis://host?db=4", (("host", 6379),), 4),
        ("redis://[::1]:7/1", (("::1", 7),), 1),
        ("redis://user:@host/1", (("host", 6379),), 1),
        ("sentinel://one,two:7,[::1]/3?master=x", (("one", 26379), ("two", 7), ("::1", 26379)), 3),
    ],
)
def test_a_well_formed_redis_url_is_read(url: str, hosts: tuple[tuple[str, int], ...], database: int) -> None:
    """Ports and databases have defaults."""
    address = read_redis_url(url)
    assert (address.hosts, address.database) == (hosts, database)


def test_certificates_are_verified_unless_the_url_says_otherwise() -> None:
    """And ``redis:`` has no TLS."""
    verified = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    assert read_redis_url("rediss://host").tls == verified
    assert read_redis_url("sentinels://host?master=x").tls == verified
    assert read_redis_url("rediss://host?ssl_cert_reqs=none").tls == {
        "ssl_cert_reqs": "none",
        "ssl_check_hostname": False,
    }
    assert read_redis_url("rediss://host?ssl_check_hostname=false").tls == verified | {
        "ssl_check_hostname": False
    }
    assert read_redis_url("redis://host").tls is None


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://orders@postgres:5432/orders",
        "postgres://orders:secret@one:1,two:2/orders?sslmode=require&target_session_attrs=read-write",
        "postgresql:///orders?host=/run/postgresql&port=5433",
        "postgresql://orders@%2Frun%2Fpostgresql/orders",
        "postgresql://orders@[::1]:5432/orders?options=-c%20search_path%3Dx",
    ],
)
def test_a_well_formed_database_url_is_accepted(url: str) -> None:
    """A socket folder too."""
    assert check_database_url(url, environment={}) == url


COMMANDS = (
    *(("api.server",), ("api.relay.main",), ("worker.main",), ("shared.database.migrate",)),
    *(("oms", "import", "orders.json"), ("oms", "verify")),
    *(
        (
            "oms",
            "rebuild",
        ),
        ("shared.settings",),
    ),
    ("piccolo.main", "migrations", "check"),
    ("celery", "--app=shared.task_queue", "report"),
)


REFUSED_REDIS = {"OMS_REDIS_URL": f"redis://:{SECRET}@x/w@host"}


def test_a_malformed_url_is_refused_in_one_line() -> None:
    """Without a stack trace."""
    done = run_command("shared.settings", database="postgresql://orders@host/x", **REFUSED_REDIS)
    assert done.returncode not in {0, None}
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "OMS_REDIS_URL: " in line
    assert "%2F" in line
    assert SECRET not in line


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_process_and_command_refuses_malformed_urls_in_one_line_each(command: tuple[str, ...]) -> None:
    """Without a stack trace; both URLs are named."""
    database = f"postgresql://orders:{SECRET}#@host:5432/x"
    done = run_command(*command, database=database, **REFUSED_REDIS)
    assert done.returncode not in {0, None}
    assert done.stdout == ""
    _, one, two = done.stderr.splitlines()
    assert one.startswith("  OMS_DATABASE_URL: ")
    assert "%23" in one
    assert two.startswith("  OMS_REDIS_URL: ")
    assert SECRET not in one + two


def test_make_run_refuses_a_malformed_url_before_it_starts_a_server(tmp_path: Path) -> None:
    """With exit status 2; nothing is left in the state folder."""
    own = {"OMS_REDIS_URL": f"redis://:{SECRET}/@host", "STATE_DIR": str(tmp_path / "state"), "PORT": "0"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMS_")}
    done = subprocess.run(
        [sys.executable, "-m", "oms", "run"],
        env={**kept, **own},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("make run: ")
    assert "OMS_REDIS_URL" in line
    assert "/ as %2F" in line
    assert SECRET not in line
    assert not (tmp_path / "state" / "postgres").exists()


def test_a_password_beside_the_url_needs_no_escaping_and_is_not_given_twice(
    setting: object,
) -> None:
    """OMS_REDIS_PASSWORD; with one in the URL too, neither is guessed."""
    from shared.settings import SettingsError, settings

    assert callable(setting)
    setting(redis_url="redis://host/0", redis_password="p@ss/w:rd#")
    assert settings().redis_address.credentials == {"password": "p@ss/w:rd#"}
    assert "p@ss" not in repr(settings())
    setting(redis_url=f"redis://:{SECRET}@host/0")
    with pytest.raises(SettingsError, match="OMS_REDIS_PASSWORD") as refused:
        settings()
    assert_refused(str(refused.value), None)
