"""The pods in ``deploy/kubernetes``, against the project: commands, settings, secrets and probes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.server import LONGEST_STOP_SECONDS
from tests.kubernetes_manifests import BUILDS, COMPLETE, by_name, manifests, ours, settings_of
from tests.kustomizations import FOLDER, containers_of, is_workload
from tests.processes import ROOT
from tests.test_deployments import PROCESSES
from tests.test_docker_compose import COPIED, SERVICES

COMMANDS = {**PROCESSES, "first-key": "python -m api.keys.first_key"}
MADE_BY_CLOUDNATIVEPG = {("oms-database-app", "password"), ("oms-database-ca", "ca.crt")}
OPTIONAL = {"OMS_SECRET_KEY", "OMS_DATABASE_DIRECT_URL", "OMS_DATABASE_READ_URL"}


@pytest.mark.parametrize("overlay", BUILDS)
def test_every_process_runs_its_command_in_the_image_of_the_release(overlay: str) -> None:
    """The modules are in the image; the key is made after the migrations, in the same job."""
    containers = ours(overlay)
    assert {name: " ".join(container["command"]) for name, container in containers.items()} == COMMANDS
    for container in containers.values():
        file = Path(*container["command"][2].split(".")).with_suffix(".py")
        assert (ROOT / file).is_file()
        assert f"{file.parts[0]}/" in COPIED
    (image,) = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())["images"]
    assert {each["image"] for each in containers.values()} == {f"{image['newName']}:{image['newTag']}"}
    job = by_name(overlay, "Job")["oms-migrate"]["spec"]["template"]["spec"]
    assert [[each["name"] for each in job[kind]] for kind in ("initContainers", "containers")] == [
        ["migrate"],
        ["first-key"],
    ]


@pytest.mark.parametrize("overlay", BUILDS)
def test_every_pod_is_confined_and_has_limits(overlay: str) -> None:
    """As the profile `restricted` of Kubernetes asks; it gets no variables that the settings would refuse."""
    (user,) = re.findall(r"^USER (\d+):", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for manifest in filter(is_workload, manifests(overlay)):
        pod = manifest["spec"]["template"]["spec"]
        assert (pod["enableServiceLinks"], pod["automountServiceAccountToken"]) == (False, False)
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == (999 if manifest["metadata"]["name"] == "oms-redis" else int(user))
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for container in containers_of(manifest):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert all(
                {"cpu", "memory"} == set(container["resources"][each]) for each in ("requests", "limits")
            )
            for mount in container.get("volumeMounts", []):
                written = "emptyDir" in volumes[mount["name"]]
                assert written == (mount["mountPath"] == "/tmp")  # noqa: S108 (in the pod)
                assert written or mount["readOnly"] is True


@pytest.mark.parametrize("overlay", BUILDS)
def test_every_setting_is_known_and_all_that_are_needed_are_given(overlay: str, tmp_path: Path) -> None:
    """Keys are asked for, and any Host is answered: Prometheus and other pods use addresses."""
    for name, container in ours(overlay).items():
        settings = settings_of(overlay, container, tmp_path)
        assert (settings.asks_for_keys, settings.allowed_hosts) == (True, ())
        assert settings.secret_keys.encrypts == (name in ("api", "worker"))
        assert (settings.drain, settings.statement_timeout) == (5, 15)
        complete = overlay in COMPLETE
        assert bool(settings.database_direct_url) == (complete or overlay == "with-external-database")
        assert bool(settings.broker_url) == (complete and name in ("api", "relay", "worker"))
        assert bool(settings.jwks) == complete


def _examples(overlay: str) -> list[dict[str, Any]]:
    """Return the examples of secrets, with the members that are commented out."""
    files = (FOLDER / "secrets.example.yaml", FOLDER / overlay / "secrets.example.yaml")
    texts = [file.read_text() for file in files if file.exists()]
    return [
        secret
        for text in texts
        for secret in yaml.safe_load_all(re.sub(r"^  # (?=[\w-]+: REPLACE)", "  ", text, flags=re.MULTILINE))
    ]


@pytest.mark.parametrize("build", COMPLETE)
def test_every_secret_has_a_placeholder_or_is_made_by_cloudnativepg(build: str) -> None:
    """No value is written down, and no kustomization would overwrite one."""
    overlay = build.partition(",")[0]
    examples = _examples(overlay)
    keys = {(secret["metadata"]["name"], key) for secret in examples for key in secret["stringData"]}
    assert {value for secret in examples for value in secret["stringData"].values()} == {"REPLACE-ME"}
    used = set()
    for container in containers_of(*manifests(build)):
        for variable in container.get("env", []):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                used.add((reference["name"], reference["key"]))
                assert reference.get("optional", False) == (variable["name"] in OPTIONAL)
    for manifest in filter(is_workload, manifests(build)):
        for volume in manifest["spec"]["template"]["spec"].get("volumes", []):
            if "secret" in volume:
                (item,) = volume["secret"]["items"]
                used.add((volume["secret"]["secretName"], item["key"]))
                assert volume["secret"].get("optional", False) == (volume["name"] == "rabbitmq-ca")
    assert used == keys - {("oms-metrics", "key")} | (  # that one is Prometheus'
        MADE_BY_CLOUDNATIVEPG if overlay == "with-cloudnativepg" else set()
    )
    assert not by_name(build, "Secret")


@pytest.mark.parametrize("overlay", BUILDS)
def test_only_liveness_restarts_a_pod_and_readiness_is_asked_more_often_than_it_drains(overlay: str) -> None:
    """While the database is away, restarts would not help. The API drains itself, from SIGTERM on."""
    containers = ours(overlay)
    api = containers["api"]
    assert {name: api[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")} == {
        "startup": {"path": "/health/live", "port": "http"},
        "liveness": {"path": "/health/live", "port": "http"},
        "readiness": {"path": "/health/ready", "port": "http"},
    }
    data = by_name(overlay, "ConfigMap")["oms"]["data"]
    drain = int(data["OMS_DRAIN"])
    assert api["readinessProbe"]["periodSeconds"] * api["readinessProbe"]["failureThreshold"] < drain
    assert drain + int(data["OMS_STATEMENT_TIMEOUT"]) < LONGEST_STOP_SECONDS
    for manifest in filter(is_workload, manifests(overlay)):
        assert manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > LONGEST_STOP_SECONDS
    assert not any("lifecycle" in container for container in containers.values())
    for name in ("relay", "worker"):
        for probe in ("startupProbe", "livenessProbe"):
            assert containers[name][probe]["exec"]["command"] == ["python", "-m", "shared.heartbeat"]
        assert {"name": "OMS_HEARTBEAT_FILE", "value": "/tmp/heartbeat"} in containers[name]["env"]  # noqa: S108
        assert containers[name]["ports"] == [
            {"name": "metrics", "containerPort": int(data["OMS_METRICS_PORT"])}
        ]
    assert {"name": "OMS_PORT", "value": str(api["ports"][0]["containerPort"])} in api["env"]


def test_redis_is_the_one_of_compose_and_where_the_settings_look_for_it() -> None:
    """It evicts nothing."""
    (redis,) = (
        each for each in containers_of(*manifests("with-external-database")) if each["name"] == "redis"
    )
    assert redis["image"] == SERVICES["redis"]["image"]
    assert "--maxmemory-policy noeviction" in " ".join(redis["args"])
    service = by_name("with-external-database", "Service")["oms-redis"]
    data = by_name("with-external-database", "ConfigMap")["oms"]["data"]
    assert data["OMS_REDIS_URL"] == f"redis://oms-redis:{service['spec']['ports'][0]['port']}/0"
