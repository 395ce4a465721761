"""The Compose file and the image against the project, checked without Docker."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from api.first_key import DIGEST_FILE, KEY_FILE, make_first_key
from shared.heartbeat import LONGEST_SILENCE_SECONDS
from shared.settings import Settings, SettingsError, settings
from stack.child_processes import start_process, stop_processes
from stack.embedded_valkey import free_port
from tests.drivers import wait_until
from tests.processes import ROOT, environment

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COPIED = re.findall(r"^COPY (\S+) \S+$", DOCKERFILE, re.MULTILINE)
ONE_OFF = ("migrate", "keys")
"""Services that end when they have done their work."""
TLS_REQUEST = (80_877_103).to_bytes(4, "big")
LEFT_OUT = re.findall(r"^\*\*/(\S+)/$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)


def _as_compose_does(environment: dict[str, Any], **outside: str) -> dict[str, str]:
    """Substitute variables or their defaults: ``${NAME:-default}``."""
    return {
        name: re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: outside.get(match[1]) or match[2], str(value))
        for name, value in environment.items()
    }


def _settings(service: dict[str, Any]) -> dict[str, str]:
    """Return a container's settings of the service, with no variable set."""
    values = _as_compose_does(service["environment"])
    return {name: value for name, value in values.items() if name.startswith("OMS_")}


def test_every_process_of_the_procfile_is_a_service_of_the_compose_file() -> None:
    """The same processes run with and without containers, by the same commands."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    processes = dict(line.split(": ", 1) for line in lines)
    assert processes == {name: " ".join(OURS[name]["command"]) for name in processes}
    assert set(OURS) == {*processes, *ONE_OFF}


@pytest.mark.parametrize("name", OURS)
def test_every_command_of_the_compose_file_names_a_module_of_the_image(name: str) -> None:
    """A service's command is ``python -m module``, and the image contains the module's file."""
    python, option, module = OURS[name]["command"]
    file = Path(*module.split(".")).with_suffix(".py")
    assert (python, option) == ("python", "-m")
    assert (ROOT / file).is_file()
    assert f"{file.parts[0]}/" in COPIED


def test_compose_passes_settings_from_the_environment_with_the_services_defaults() -> None:
    """A variable goes to the setting of its name; without it the default is the same as without Compose."""
    for service in OURS.values():
        taken = {}
        for name, value in service["environment"].items():
            outside = re.fullmatch(r"\$\{(OMS_\w+):-(.*)\}", str(value))
            if outside:
                assert outside[1] == name
                taken[name.removeprefix("OMS_").lower()] = outside[2]
        decided_here = {"database_url", "redis_url", "redis_password", "host", "port", "heartbeat_file"}
        decided_here |= {"api_keys_file", "metrics_host"}
        assert taken == {
            name: str(field.default)
            for name, field in Settings.model_fields.items()
            if name not in decided_here
        }


@pytest.mark.parametrize("name", SERVICES)
def test_every_long_running_service_of_the_compose_file_has_a_health_check(name: str) -> None:
    """So that a hung one is noticed."""
    assert ("healthcheck" in SERVICES[name]) == (name not in ONE_OFF)


@pytest.mark.parametrize("name", OURS)
def test_every_setting_in_the_compose_file_is_known_to_the_service(name: str) -> None:
    """The settings' own validation accepts what Compose sets, names and values."""
    values = {key.removeprefix("OMS_").lower(): value for key, value in _settings(OURS[name]).items()}
    assert set(values) <= set(Settings.model_fields)
    values.pop("api_keys_file", None)  # it is in the container
    Settings.model_validate_strings(values)


def test_urls_refer_to_services_of_the_compose_file_and_the_api_port_is_the_same_everywhere() -> None:
    """URLs name services of this file; the API's port is the same wherever it appears."""
    for service in OURS.values():
        assert (
            service["environment"]["PGPASSWORD"] == SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]
        )
        for name in ("OMS_DATABASE_URL", "OMS_REDIS_URL"):
            assert httpx.URL(_settings(service)[name]).host in SERVICES
    database = httpx.URL(_settings(OURS["api"])["OMS_DATABASE_URL"])
    postgres = _as_compose_does(SERVICES["postgres"]["environment"])
    assert database.username == postgres["POSTGRES_USER"]
    assert database.path == f"/{postgres['POSTGRES_DB']}"
    port = _settings(OURS["api"])["OMS_PORT"]
    assert OURS["api"]["ports"] == [f"127.0.0.1:${{PORT:-8000}}:{port}"]
    assert f":{port}/health/ready" in OURS["api"]["healthcheck"]["test"][-1]
    assert f"EXPOSE {port}" in DOCKERFILE


def _password_asked_for(listener: socket.socket) -> str:
    """Ask one client for its password in clear text, as PostgreSQL can."""
    connection, _ = listener.accept()
    with connection:
        length = int.from_bytes(connection.recv(4), "big")
        if connection.recv(length - 4) == TLS_REQUEST:
            connection.sendall(b"N")  # this server has no TLS
            length = int.from_bytes(connection.recv(4), "big")
            connection.recv(length - 4)
        connection.sendall(b"R\0\0\0\x08\0\0\0\x03")
        kind, length = connection.recv(1), int.from_bytes(connection.recv(4), "big")
        assert kind == b"p"
        return connection.recv(length - 4).rstrip(b"\0").decode()


def test_any_database_password_reaches_the_service_unchanged() -> None:
    """Also one that a URL could not contain unescaped."""
    password = "p@ss:/w%rd?#&+ =é"
    postgres = _as_compose_does(SERVICES["postgres"]["environment"], POSTGRES_PASSWORD=password)
    assert postgres["POSTGRES_PASSWORD"] == password
    values = _as_compose_does(OURS["migrate"]["environment"], POSTGRES_PASSWORD=password)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        listener.settimeout(10)
        sent = threads.submit(_password_asked_for, listener)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        values["OMS_DATABASE_URL"] = values["OMS_DATABASE_URL"].replace("postgres:5432", address)
        # All processes connect through the same code; this one ends when it is refused.
        subprocess.run(
            [sys.executable, "-m", "shared.database.migrate"],
            check=False,
            capture_output=True,
            cwd=ROOT,
            env=environment(values["OMS_DATABASE_URL"], values["OMS_REDIS_URL"], **values),
            timeout=30,
        )
        assert sent.result() == password


def test_the_database_is_healthy_only_when_it_accepts_tcp_connections() -> None:
    """While the image initialises the database, a temporary server listens on the socket alone."""
    assert "--host=127.0.0.1" in SERVICES["postgres"]["healthcheck"]["test"]


def test_every_depends_on_condition_can_be_met() -> None:
    """The service exists, has a health check if it must be healthy, and ends if it must complete."""
    for service in SERVICES.values():
        for name, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]
            else:
                assert wanted["condition"] == "service_completed_successfully"
                assert SERVICES[name]["restart"] == "on-failure"
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]


def test_compose_publishes_ports_on_loopback_only_and_runs_nothing_as_root() -> None:
    """Every service's user has a number other than 0."""
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    users = re.findall(r"^USER (\d+):", DOCKERFILE, re.MULTILINE)
    assert users
    assert "0" not in users
    for service in SERVICES.values():
        assert "build" in service or re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined(name: str) -> None:
    """A process in it that is taken over can write volumes and memory, and can gain no privileges."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert 0 < service["pids_limit"] <= 512
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert "/tmp" in service["tmpfs"]  # noqa: S108 (in the container)
    # Nothing of the host is mounted, only named volumes.
    assert all(volume.split(":")[0] in COMPOSE["volumes"] for volume in service.get("volumes", []))


def test_images_are_pinned_by_digest() -> None:
    """A tag alone may be another image tomorrow."""
    used = [service["image"] for service in SERVICES.values() if "build" not in service]
    used += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(used) == 3
    for image in used:
        assert re.fullmatch(r"[a-z]+:[0-9a-z.-]+@sha256:[0-9a-f]{64}", image)


def test_redis_asks_for_the_password_that_the_services_have() -> None:
    """Any characters: it is not part of a URL."""
    password = "p@ss:/w%rd?#&+ =é"
    redis = SERVICES["redis"]
    asked = redis["command"][redis["command"].index("--requirepass") + 1]
    for service in OURS.values():
        sent = _as_compose_does(service["environment"], REDIS_PASSWORD=password)
        assert sent["OMS_REDIS_PASSWORD"] == password
    checked = _as_compose_does({**redis["environment"], "asked": asked}, REDIS_PASSWORD=password)
    assert checked == {"REDISCLI_AUTH": password, "asked": password}
    assert _as_compose_does({"asked": asked})["asked"]


def test_the_api_asks_for_a_key_that_was_generated_before_it_started(
    tmp_path: Path, setting: Callable[..., None]
) -> None:
    """Its container has the digest only; the next start keeps the key."""
    volumes = {name: dict(v.split(":")[:2] for v in OURS[name]["volumes"]) for name in ("keys", "api")}
    assert volumes["api"] == {"api-keys": str(DIGEST_FILE.parent)}
    assert volumes["keys"] == volumes["api"] | {"api-key": str(KEY_FILE.parent)}
    assert all(volume.endswith(":ro") for volume in OURS["api"]["volumes"])
    assert OURS["api"]["environment"]["OMS_API_KEYS_FILE"] == str(DIGEST_FILE)
    folders = re.findall(r"^RUN install .*--owner=(\d+) .*?((?: /\S+)+)$", DOCKERFILE, re.MULTILINE)
    assert folders == [("10001", f" {KEY_FILE.parent} {DIGEST_FILE.parent}")]

    key, digest = tmp_path / "key", tmp_path / "keys"
    assert make_first_key(key, digest)
    first = key.read_text()
    assert len(first.strip()) >= 43  # 256 bits
    assert key.stat().st_mode & 0o077 == 0
    assert make_first_key(key, digest)
    assert key.read_text() == first
    setting(api_keys_file=digest)
    (generated,) = settings().all_api_keys
    assert (generated.role, generated.sha256) == ("write", sha256(first.strip().encode()).hexdigest())
    setting(api_keys_file="", api_keys=f"mine:read:{'1' * 64}")
    assert not make_first_key(key, digest)
    setting(api_keys_file=digest)
    assert [key.name for key in settings().all_api_keys] == ["mine"]
    setting(api_keys="", access="open", api_keys_file="")
    assert not make_first_key(key, digest)
    setting(api_keys_file=digest)
    assert settings().all_api_keys == ()
    setting(access="protected")
    with pytest.raises(SettingsError, match="OMS_API_KEYS_FILE"):
        settings()


def test_redis_is_configured_to_keep_every_message() -> None:
    """It appends to a file and evicts nothing."""
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_every_file_that_the_image_copies_exists_and_is_not_ignored() -> None:
    """A build copies each of them from the project, as .dockerignore allows."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in COPIED:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored


@contextmanager
def _started(command: list[str], folder: Path, settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    python = [sys.executable, *command[1:]]
    with (folder / f"{command[-1]}.log").open("wb") as log:
        process = start_process(python, output=log, env=settings, cwd=folder)
    try:
        yield process
    finally:
        stop_processes(process, grace=5.0)


def assert_a_hang_is_noticed(
    process: subprocess.Popen[bytes], beats: Path, healthy: Callable[[], bool]
) -> None:
    """Check that a process is healthy while its loop runs, and not after too long a silence."""
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "the process hangs")
    assert healthy()
    long_ago = time.time() - LONGEST_SILENCE_SECONDS - 1  # instead of waiting as long
    os.utime(beats, (long_ago, long_ago))
    assert not healthy()
    process.send_signal(signal.SIGCONT)
    wait_until(healthy, "the process continues")


def test_every_service_starts_from_the_files_of_the_image(
    tmp_path: Path, new_database_url: str, redis_url: str
) -> None:
    """Each command runs in a folder with only the image's files until it is healthy, and then ends."""
    for source in COPIED:
        if source.endswith("/"):
            shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns(*LEFT_OUT))
        else:
            shutil.copy(ROOT / source, tmp_path / source)
    assert not list(tmp_path.rglob("node_modules"))  # 83 MB of linters
    port = free_port()

    def settings_of(name: str) -> dict[str, str]:
        # As Compose sets them, except the addresses: the servers are the tests' own, on this machine only.
        own = _settings(OURS[name]) | {"OMS_PORT": str(port), "OMS_HOST": "127.0.0.1"}
        own["OMS_HEARTBEAT_FILE"] = str(tmp_path / f"heartbeat of {name}")
        del own["OMS_DATABASE_URL"], own["OMS_REDIS_URL"], own["OMS_REDIS_PASSWORD"]
        own.pop("OMS_API_KEYS_FILE", None)
        return environment(new_database_url, redis_url, **own)

    with _started(OURS["migrate"]["command"], tmp_path, settings_of("migrate")) as migrate:
        assert migrate.wait(timeout=30) == 0
    with (
        _started(OURS["api"]["command"], tmp_path, settings_of("api")) as api,
        _started(OURS["relay"]["command"], tmp_path, settings_of("relay")) as relay,
        _started(OURS["worker"]["command"], tmp_path, settings_of("worker")) as worker,
    ):

        def healthy(name: str) -> bool:
            kind, python, *check = OURS[name]["healthcheck"]["test"]
            assert (kind, python) == ("CMD", "python")
            command = [sys.executable, *(word.replace(":8000/", f":{port}/") for word in check)]
            run = subprocess.run(
                command, check=False, capture_output=True, cwd=tmp_path, env=settings_of(name)
            )
            return run.returncode == 0

        for name in ("api", "relay", "worker"):
            # A check is a process, and would compete with the service for CPU while it starts.
            wait_until(partial(healthy, name), f"the health check of {name} passes", pause=0.3)
        for name, process in (("relay", relay), ("worker", worker)):
            assert_a_hang_is_noticed(process, tmp_path / f"heartbeat of {name}", partial(healthy, name))
        for process in (api, relay, worker):
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
        for process in (api, relay, worker):
            assert process.wait(timeout=10) in {0, -signal.SIGTERM}
        for name in ("relay", "worker"):
            os.utime(tmp_path / f"heartbeat of {name}", (0, 0))
            assert not healthy(name)
