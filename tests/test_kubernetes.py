"""The manifests in ``deploy/kubernetes``, against the project and the schemas of Kubernetes and operators."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from api.server import LONGEST_STOP_SECONDS
from shared.settings import Settings
from tests.custom_resources import custom_manifests, faults_of, is_custom
from tests.kustomizations import (
    COMPONENTS,
    FOLDER,
    OVERLAYS,
    Manifest,
    build,
    containers_of,
    is_workload,
    read,
    with_everything,
)
from tests.network_policies import selects
from tests.processes import ROOT
from tests.test_deployments import PROCESSES
from tests.test_docker_compose import COPIED, SERVICES

OLDEST_KUBERNETES = "1.30.0"
COMMANDS = {**PROCESSES, "first-key": "python -m api.keys.first_key"}
MADE_BY_CLOUDNATIVEPG = {
    "oms-database-app": {"username", "user", "password", "dbname", "host", "port", "uri", "pgpass"},
    "oms-database-ca": {"ca.crt", "ca.key"},
}
EXPORTS_AT_ONCE = 4


@cache
def manifests(overlay: str) -> tuple[Manifest, ...]:
    """Return what is applied with this overlay."""
    return tuple(build(FOLDER / overlay))


def by_name(overlay: str, kind: str) -> dict[str, Manifest]:
    """Return the manifests of one kind by their names."""
    return {each["metadata"]["name"]: each for each in manifests(overlay) if each["kind"] == kind}


def ours(overlay: str) -> dict[str, Manifest]:
    """Return the containers of our image, by their names, which are those of the processes."""
    return {each["name"]: each for each in containers_of(*manifests(overlay)) if each["name"] != "redis"}


def labels_of(manifest: Manifest) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    labels: dict[str, str] = manifest["spec"]["template"]["metadata"]["labels"]
    return labels


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_builds_the_same(overlay: str, tmp_path: Path) -> None:
    """With and without what is commented out, so that the other tests see what would be applied."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        warnings.warn("no kubectl here: the builds are NOT COMPARED with kubectl's", stacklevel=1)
        pytest.skip("there is no kubectl here")
    for folder in (FOLDER / overlay, with_everything(overlay, tmp_path)):
        done = subprocess.run([kubectl, "kustomize", folder], check=True, capture_output=True, text=True)
        built = list(yaml.safe_load_all(done.stdout))

        def order(each: Manifest) -> tuple[str, str]:
            return each["kind"], each["metadata"]["name"]

        assert sorted(built, key=order) == sorted(build(folder), key=order)


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_and_the_operators_know_every_member(overlay: str, version: str, tmp_path: Path) -> None:
    """By Kubernetes' own schemas, strictly, and by excerpts of the operators' definitions."""
    for manifest in build(with_everything(overlay, tmp_path)):
        if is_custom(manifest):
            assert faults_of(manifest) == []
        else:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_an_unknown_member_of_a_custom_resource_is_noticed() -> None:
    """And a value that the operator's definition does not have."""
    (cluster,) = (each for each in custom_manifests() if each["kind"] == "Cluster")
    assert faults_of(cluster) == []
    cluster["spec"]["postgresql"]["synchronous"].update(method="all", nodes=2)
    assert len(faults_of(cluster)) == 2


def test_every_file_is_applied_or_is_an_example_and_the_components_fit_both_overlays(tmp_path: Path) -> None:
    """A file that no kustomization names would be forgotten."""
    named = set()
    for file in FOLDER.rglob("kustomization.yaml"):
        text = re.sub(r"^  # - ", "  - ", file.read_text(), flags=re.MULTILINE)
        content = yaml.safe_load(text)
        paths = [*content.get("resources", []), *content.get("components", [])]
        paths += [patch["path"] for patch in content.get("patches", []) if "path" in patch]
        named |= {(file.parent / path).resolve() for path in paths}
        if file.parent.name in OVERLAYS:
            assert {Path(path).name for path in content["components"]} == set(COMPONENTS)
    files = {file for file in FOLDER.rglob("*.yaml") if file.name != "kustomization.yaml"}
    assert {file for file in files - named if not file.name.endswith(".example.yaml")} == set()
    for overlay in OVERLAYS:
        everything = build(with_everything(overlay, tmp_path))
        assert len(everything) > len(manifests(overlay))
        (worker,) = (
            each for each in everything if each["metadata"]["name"] == "oms-worker" and is_workload(each)
        )
        assert "replicas" not in worker["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
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


@pytest.mark.parametrize("overlay", OVERLAYS)
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


def _settings(overlay: str, container: Manifest, tmp_path: Path) -> Settings:
    """Return the settings that a container starts with, of values in place of the secrets'."""
    secrets = {
        "OMS_DATABASE_URL": "postgresql://shop_api@db/orders",
        "OMS_REDIS_PASSWORD": "secret",
        "OMS_SECRET_KEY": bytes(range(32)).hex(),
    }
    values: dict[str, str] = {}
    for source in container["envFrom"]:
        values |= by_name(overlay, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    for variable in container["env"]:
        assert variable["name"] not in values, "it would be in two places"
        assert ("valueFrom" in variable) == (variable["name"] in {*secrets, "PGPASSWORD"})
        values[variable["name"]] = variable.get("value") or secrets.get(variable["name"], "")
    values.pop("PGPASSWORD", None)
    certificate = tmp_path / "ca.crt"
    certificate.touch()
    for mount in container["volumeMounts"]:
        if mount["name"] == "database-ca":
            place = f"{mount['mountPath']}/ca.crt"
            assert place in values["OMS_DATABASE_URL"]
            values["OMS_DATABASE_URL"] = values["OMS_DATABASE_URL"].replace(place, str(certificate))
    return Settings.model_validate_strings(
        {name.removeprefix("OMS_").lower(): value for name, value in values.items()}
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_setting_is_known_and_all_that_are_needed_are_given(overlay: str, tmp_path: Path) -> None:
    """Keys are asked for, and any Host is answered: Prometheus and other pods use addresses."""
    for name, container in ours(overlay).items():
        settings = _settings(overlay, container, tmp_path)
        assert (settings.asks_for_keys, settings.allowed_hosts) == (True, ())
        assert settings.secret_keys.encrypts == (name in ("api", "worker"))
        assert (settings.drain, settings.statement_timeout) == (5, 15)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_secret_has_a_placeholder_or_is_made_by_cloudnativepg(overlay: str) -> None:
    """No value is written down, and no kustomization would overwrite one."""
    files = (FOLDER / "secrets.example.yaml", FOLDER / overlay / "secrets.example.yaml")
    examples = [secret for file in files if file.exists() for secret in read(file)]
    keys = {secret["metadata"]["name"]: set(secret["stringData"]) for secret in examples}
    assert {value for secret in examples for value in secret["stringData"].values()} == {"REPLACE-ME"}
    if overlay == "with-cloudnativepg":
        keys |= MADE_BY_CLOUDNATIVEPG
    used = set()
    for container in containers_of(*manifests(overlay)):
        for variable in container.get("env", []):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                used.add(reference["name"])
                assert reference["key"] in keys[reference["name"]]
                assert reference.get("optional", False) == (reference["name"] == "oms-secret-key")
    for manifest in filter(is_workload, manifests(overlay)):
        for volume in manifest["spec"]["template"]["spec"].get("volumes", []):
            if "secret" in volume:
                used.add(volume["secret"]["secretName"])
                assert [item["key"] for item in volume["secret"]["items"]] == ["ca.crt"]
    assert used == set(keys) - {"oms-metrics"}  # that one is Prometheus'
    assert not by_name(overlay, "Secret")


@pytest.mark.parametrize("overlay", OVERLAYS)
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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_select_the_pods_and_of_each_deployment_one_pod_at_most_is_away(overlay: str) -> None:
    """And its pods are spread over zones and nodes."""
    deployments = by_name(overlay, "Deployment")
    pods = [labels_of(each) for each in manifests(overlay) if is_workload(each)]
    selectors = {name: each["spec"]["selector"]["matchLabels"] for name, each in deployments.items()}
    assert selectors == {name: labels_of(each) for name, each in deployments.items()}
    for service in by_name(overlay, "Service").values():
        (deployment,) = (
            each for each in deployments.values() if labels_of(each) == service["spec"]["selector"]
        )
        ports = {port["name"] for each in containers_of(deployment) for port in each["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    budgets = by_name(overlay, "PodDisruptionBudget")
    assert set(budgets) == set(deployments) - {"oms-redis"}  # there is one, and it may go at any time
    scaled = by_name(overlay, "HorizontalPodAutoscaler")["oms-api"]["spec"]
    assert scaled["scaleTargetRef"]["name"] in deployments
    for name, budget in budgets.items():
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["selector"]["matchLabels"] == selectors[name]
        spec = deployments[name]["spec"]
        assert spec.get("replicas", scaled["minReplicas"]) > 1
        assert ("replicas" in spec) == (name != "oms-api")  # each apply would undo the scaling
        spread = spec["template"]["spec"]["topologySpreadConstraints"]
        assert [each["topologyKey"].split("/")[1] for each in spread] == ["zone", "hostname"]
        assert all(each["labelSelector"]["matchLabels"] == selectors[name] for each in spread)
    for policy in by_name(overlay, "NetworkPolicy").values():
        selector = policy["spec"]["podSelector"]
        assert (
            any(selects(selector, labels) for labels in pods) or "cnpg.io/cluster" in selector["matchLabels"]
        )


def _connections(overlay: str, tmp_path: Path) -> int:
    """Return how many connections there are at most, by the table in docs/operations/scale.md."""
    everything = {
        (each["kind"], each["metadata"]["name"]): each.get("spec", {})
        for each in build(with_everything(overlay, tmp_path))
    }
    settings = _settings(overlay, ours(overlay)["worker"], tmp_path)
    apis = 2 * everything["HorizontalPodAutoscaler", "oms-api"]["maxReplicas"]  # old and new ones together
    workers = everything["ScaledObject", "oms-worker"]["maxReplicaCount"] + 1
    relays = everything["Deployment", "oms-relay"]["replicas"] + 1
    commands = 3 * 2  # the migrator, and commands
    connections: int = (
        apis * settings.api_processes * (settings.pool_size + EXPORTS_AT_ONCE)
        + (3 + relays - 1)
        + workers * (settings.worker_processes + 6)
        + commands
    )
    return connections


def test_the_cluster_of_cloudnativepg_is_what_the_settings_name(tmp_path: Path) -> None:
    """Services, role and database; three servers, of which two have each commit; enough connections."""
    cluster = by_name("with-cloudnativepg", "Cluster")["oms-database"]
    (url,) = {
        _settings("with-cloudnativepg", each, tmp_path).database_url
        for each in ours("with-cloudnativepg").values()
    }
    initdb = cluster["spec"]["bootstrap"]["initdb"]
    name = cluster["metadata"]["name"]
    assert url.startswith(
        f"postgresql://{initdb['owner']}@{name}-rw:5432/{initdb['database']}?sslmode=verify-full&"
    )
    assert set(MADE_BY_CLOUDNATIVEPG) == {f"{name}-app", f"{name}-ca"}
    assert cluster["spec"]["instances"] == 3
    assert cluster["spec"]["postgresql"]["synchronous"] == {
        "method": "any",
        "number": 1,
        "dataDurability": "required",
        "failoverQuorum": True,
    }
    assert _connections("with-cloudnativepg", tmp_path) <= int(
        cluster["spec"]["postgresql"]["parameters"]["max_connections"]
    )
    (pooler,) = (each for each in custom_manifests() if each["kind"] == "Pooler")
    assert pooler["spec"]["cluster"]["name"] == name
    assert cluster["spec"]["certificates"]["serverAltDNSNames"] == [pooler["metadata"]["name"]]


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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_watches_and_scales_names_metrics_jobs_and_pods_that_exist(overlay: str, tmp_path: Path) -> None:
    """The alerts know the same jobs."""
    everything = build(with_everything(overlay, tmp_path))
    pods = {each["metadata"]["name"]: each for each in everything if is_workload(each)}
    monitors = {each["metadata"]["name"]: each["spec"] for each in everything if each["kind"] == "PodMonitor"}
    monitors.pop("oms-database", None)
    jobs = re.search(r'job=~"oms-\(([a-z|]+)\)"', (ROOT / "docs/operations/alerts.yaml").read_text())
    assert jobs
    assert set(monitors) == {f"oms-{name}" for name in jobs[1].split("|")}
    for name, monitor in monitors.items():
        assert monitor["selector"]["matchLabels"] == labels_of(pods[name])
        (endpoint,) = monitor["podMetricsEndpoints"]
        assert endpoint["port"] in {
            port["name"] for each in containers_of(pods[name]) for port in each["ports"]
        }
        assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": name}]
        assert ("authorization" in endpoint) == (name == "oms-api")
    (scaled,) = (each["spec"] for each in everything if each["kind"] == "ScaledObject")
    assert scaled["scaleTargetRef"]["name"] in pods
    known = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    for trigger in scaled["triggers"]:
        query = re.fullmatch(r'max\((\w+)\{job="([\w-]+)"\}\)', trigger["metadata"]["query"])
        assert query
        assert query[1] in known
        assert query[2] == "oms-api"
    (route,) = (each["spec"] for each in everything if each["kind"] == "HTTPRoute")
    (backend,) = route["rules"][0]["backendRefs"]
    service = by_name(overlay, "Service")[backend["name"]]
    assert backend["port"] in {port["port"] for port in service["spec"]["ports"]}
