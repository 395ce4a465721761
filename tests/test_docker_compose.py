"""The Compose file and the image against the project, checked without Docker."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from shared.settings import Settings
from tests.drivers import Database
from tests.processes import ROOT, call_command, environment, run_command

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COPIED = re.findall(r"^COPY (\S+) \S+$", DOCKERFILE, re.MULTILINE)
MONITORING = ("prometheus", "grafana")
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


def settings_of_service(name: str) -> dict[str, str]:
    """Return a container's settings of the service with this name, with no variable set."""
    return _settings(OURS[name])


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
    for name, service in OURS.items():
        taken = {}
        for variable, value in service["environment"].items():
            outside = re.fullmatch(r"\$\{(OMS_\w+):-(.*)\}", str(value))
            if outside:
                assert outside[1] == variable
                taken[variable.removeprefix("OMS_").lower()] = outside[2]
        decided_here = {"database_url", "redis_url", "redis_password", "host", "port", "heartbeat_file"}
        assert taken.pop("access") == "keys", "for the key that is made"
        decided_here |= {"access", "metrics_host"}
        if name not in ("api", "worker"):
            decided_here |= {"secret_key", "secret_key_file"}  # they have nothing to decrypt
        assert taken == {
            setting: str(field.default)
            for setting, field in Settings.model_fields.items()
            if setting not in decided_here
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
    assert 0 < service["cpus"] <= 2
    assert service["restart"] == ("on-failure" if name in ONE_OFF else "unless-stopped")
    assert "/tmp" in service["tmpfs"]  # noqa: S108 (in the container)
    # Nothing of the host is mounted, only named volumes; for monitoring also files to read.
    mounted = [
        volume for volume in service.get("volumes", []) if volume.split(":")[0] not in COMPOSE["volumes"]
    ]
    assert not mounted or name in MONITORING
    assert all(volume.endswith(":ro") for volume in mounted)


def test_images_are_pinned_by_digest() -> None:
    """A tag alone may be another image tomorrow. Those that only look on have their whole version."""
    others = {name: service["image"] for name, service in SERVICES.items() if "build" not in service}
    watching = [others.pop(name) for name in MONITORING]
    used = [*others.values(), *re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)]
    assert len(used) == 3
    for image in used:
        assert re.fullmatch(r"[a-z]+:[0-9a-z.-]+@sha256:[0-9a-f]{64}", image)
    for image in watching:
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?", image)


def test_monitoring_is_a_profile_that_reads_what_the_services_show() -> None:
    """Nothing depends on it, and its files name services, ports and folders of this Compose file."""
    for name, service in SERVICES.items():
        assert service.get("profiles") == (["monitoring"] if name in MONITORING else None)
        assert name in MONITORING or not set(service.get("depends_on", {})) & set(MONITORING)
        for volume in service.get("volumes", []) if name in MONITORING else []:
            place, target, *_ = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume).split(":")
            assert place in COMPOSE["volumes"] or place == "/dev/null" or (ROOT / place).is_dir()
            assert place != "./docs/operations" or target == "/etc/operations"
    folder = ROOT / "docs" / "operations" / "monitoring"
    prometheus = yaml.safe_load((folder / "prometheus.yml").read_text())
    targets = [job["static_configs"][0]["targets"] for job in prometheus["scrape_configs"]]
    assert targets == [["api:8000"], ["relay:9100"], ["worker:9100"]]
    used = " ".join(SERVICES["prometheus"]["command"])
    assert "/etc/operations/monitoring/prometheus.yml" in used
    source = yaml.safe_load((folder / "grafana" / "datasources" / "prometheus.yaml").read_text())
    assert httpx.URL(source["datasources"][0]["url"]).host in SERVICES
    provider = yaml.safe_load((folder / "grafana" / "dashboards" / "operations.yaml").read_text())
    assert provider["providers"][0]["options"]["path"] == "/etc/operations"


def test_the_reference_names_every_variable_that_the_compose_file_reads() -> None:
    """As a setting, or in a table of its own; OpenTelemetry's are in the page about traces."""
    text = (ROOT / "docker-compose.yml").read_text()
    pages = ("configuration.md", "operations/tracing.md")
    reference = "".join((ROOT / "docs" / page).read_text() for page in pages)
    read = set(re.findall(r"\$\{(\w+)", text))
    assert read
    assert {name for name in read if f"`{name}`" not in reference} == set()


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


def test_no_key_is_made_where_callers_have_one_or_need_none(
    database: Database, setting: Callable[..., None]
) -> None:
    """They have a key of the settings, an open API, or a key in the database, even if it was revoked."""

    def first_key() -> list[str]:
        done = call_command("api.keys.first_key", database=database.url)
        assert done.returncode == 0
        return re.findall(r"oms_\w+", done.stdout)

    for settings in ({"api_keys": f"mine:read:{'1' * 64}"}, {"api_keys": "", "access": "open"}):
        setting(**settings)
        assert not first_key()
    setting(access="keys")
    with ThreadPoolExecutor(3) as threads:
        at_once = [threads.submit(run_command, "api.keys.first_key", database=database.url) for _ in range(3)]
    assert len(re.findall(r"oms_\w+", "".join(done.result().stdout for done in at_once))) == 1
    assert database.value("SELECT count(*) FROM api_key") == 1
    database.rows("UPDATE api_key SET revoked_at = now()")
    assert not first_key()
