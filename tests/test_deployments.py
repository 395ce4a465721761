"""The Kubernetes manifests and systemd units of the operations guide, against the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from configparser import ConfigParser
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from shared.settings import Settings
from tests.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

KUBERNETES = ROOT / "docs" / "operations" / "kubernetes"
SYSTEMD = ROOT / "docs" / "operations" / "systemd"
MANIFESTS: list[dict[str, Any]] = [
    manifest
    for file in sorted(KUBERNETES.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for manifest in yaml.safe_load_all(file.read_text())
]
PODS = {
    manifest["metadata"]["name"].removeprefix("oms-"): manifest["spec"]["template"]["spec"]
    for manifest in MANIFESTS
    if "template" in manifest["spec" if "spec" in manifest else "metadata"]
}
PROCESSES = {
    **dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines()),
    "migrate": "python -m shared.database.migrate",
}
CONFIGURATION = next(manifest["data"] for manifest in MANIFESTS if manifest["kind"] == "ConfigMap")
SECRETS = {
    "OMS_DATABASE_URL": "postgresql://shop_api@db/orders",
    "OMS_REDIS_PASSWORD": "secret",
    "OMS_SECRET_KEY": bytes(range(32)).hex(),
}
OLDEST_KUBERNETES = "1.30.0"


def labels_of(manifest: dict[str, Any]) -> dict[str, str]:
    """Return the labels of a deployment's pods."""
    labels: dict[str, str] = manifest["spec"]["template"]["metadata"]["labels"]
    return labels


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
def test_kubernetes_knows_every_member_of_the_manifests(version: str) -> None:
    """By its own schemas, strictly."""
    for manifest in MANIFESTS:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_every_manifest_is_applied_with_one_image() -> None:
    """The kustomization names each file, and the image that the pods use."""
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    images = {container["image"] for pod in PODS.values() for container in pod["containers"]}
    assert images == {image["name"] for image in kustomization["images"]}


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_is_a_confined_pod_with_limits(name: str) -> None:
    """It has 30 s to end, and gets no variables that the settings would refuse."""
    pod = PODS[name]
    (container,) = pod["containers"]
    assert " ".join(container["command"]) == PROCESSES[name]
    assert pod["terminationGracePeriodSeconds"] == 30
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    (user,) = re.findall(r"^USER (\d+):", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, int(user))
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all({"cpu", "memory"} == set(container["resources"][kind]) for kind in ("requests", "limits"))
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]  # noqa: S108 (in the pod)


def test_every_setting_of_the_pods_is_known_and_no_secret_is_written_down() -> None:
    """Addresses with passwords, and passwords, are references to a secret."""
    for pod in PODS.values():
        values = dict(CONFIGURATION)
        for variable in pod["containers"][0]["env"]:
            values[variable["name"]] = variable.get("value", SECRETS.get(variable["name"]))
            assert ("secretKeyRef" in variable.get("valueFrom", {})) == (variable["name"] in SECRETS)
        Settings.model_validate_strings(
            {name.removeprefix("OMS_").lower(): value for name, value in values.items()}
        )


def test_only_liveness_restarts_a_pod_and_readiness_is_asked_more_often_than_it_drains() -> None:
    """While the database is away, restarts would not help."""
    (api,) = PODS["api"]["containers"]
    probes = {name: api[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/health/live",
        "liveness": "/health/live",
        "readiness": "/health/ready",
    }
    assert api["readinessProbe"]["periodSeconds"] * api["readinessProbe"]["failureThreshold"] < 5
    for name in ("relay", "worker"):
        (container,) = PODS[name]["containers"]
        assert container["livenessProbe"]["exec"]["command"] == ["python", "-m", "shared.heartbeat"]
        assert {"name": "OMS_HEARTBEAT_FILE", "value": "/tmp/heartbeat"} in container["env"]  # noqa: S108
        assert container["ports"] == [
            {"name": "metrics", "containerPort": int(CONFIGURATION["OMS_METRICS_PORT"])}
        ]


def test_a_pod_answers_prometheus_and_other_pods_under_any_name() -> None:
    """They address it by its IP, or by a service's name, and not by the name that callers outside use."""
    given = Settings.model_validate_strings(
        {name.removeprefix("OMS_").lower(): value for name, value in {**CONFIGURATION, **SECRETS}.items()}
    )
    assert (given.allowed_hosts, given.asks_for_keys) == ((), True)


def test_services_and_disruption_budgets_select_the_pods() -> None:
    """Of each deployment with several pods, one at most is away."""
    deployments = {m["metadata"]["name"]: m for m in MANIFESTS if m["kind"] == "Deployment"}
    budgets = {m["metadata"]["name"]: m["spec"] for m in MANIFESTS if m["kind"] == "PodDisruptionBudget"}
    assert set(budgets) == set(deployments)
    for name, deployment in deployments.items():
        assert deployment["spec"]["replicas"] > 1
        assert budgets[name]["maxUnavailable"] == 1
        assert budgets[name]["selector"]["matchLabels"] == labels_of(deployment)
    (service,) = (manifest["spec"] for manifest in MANIFESTS if manifest["kind"] == "Service")
    assert service["selector"] == labels_of(deployments["oms-api"])


def test_systemd_units_start_the_processes_of_the_procfile() -> None:
    """With the interpreter of /opt/oms, and what they share in one file."""
    started = {}
    for path in SYSTEMD.glob("*.service"):
        unit = ConfigParser(interpolation=None, strict=False)
        unit.optionxform = str  # type: ignore[assignment,method-assign]  # names are case-sensitive
        unit.read(path)
        python, command = unit["Service"]["ExecStart"].split(" ", 1)
        assert python == "/opt/oms/.venv/bin/python"
        started[path.stem.removeprefix("oms-")] = f"python {command}"
    assert started == PROCESSES


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """With paths of this machine in place of /opt/oms and /etc/oms."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        warnings.warn("no systemd-analyze here: the units are NOT VERIFIED by systemd", stacklevel=1)
        pytest.skip("there is no systemd-analyze here")
    shutil.copytree(SYSTEMD, tmp_path / "units")
    (tmp_path / "oms.env").write_text("OMS_LOG_FORMAT=json\n")
    units = sorted((tmp_path / "units").rglob("*.*"))
    for unit in (unit for unit in units if unit.is_file()):
        text = unit.read_text().replace("/opt/oms/.venv/bin/python", sys.executable)
        unit.write_text(text.replace("/opt/oms", str(ROOT)).replace("/etc/oms", str(tmp_path)))
    done = subprocess.run(
        [analyze, "verify", "--man=no", *map(str, (tmp_path / "units").glob("*.service"))],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path / 'units'}:"},
    )
    about_ours = [line for line in done.stderr.splitlines() if "oms" in line]
    assert (done.returncode, about_ours) == (0, []), done.stderr
