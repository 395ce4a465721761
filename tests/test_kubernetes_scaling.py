"""What selects, scales and watches the pods in ``deploy/kubernetes``, and the database that serves them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kubernetes_manifests import COMPLETE, by_name, labels_of, manifests, ours, settings_of
from tests.kustomizations import OVERLAYS, containers_of, is_workload
from tests.network_policies import selects
from tests.processes import ROOT
from tests.test_kubernetes import MADE_BY_CLOUDNATIVEPG

EXPORTS_AT_ONCE = 4


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


def _connections(build: str, tmp_path: Path) -> tuple[int, int]:
    """Return how many connections one server has at most, by the table in docs/operations/scale.md.

    First without standbys, then with them: one that has become the primary keeps those that read from it.
    """
    everything = {
        (each["kind"], each["metadata"]["name"]): each.get("spec", {}) for each in manifests(COMPLETE[0])
    }
    settings = settings_of(build, ours(build)["worker"], tmp_path)
    apis = 2 * everything["HorizontalPodAutoscaler", "oms-api"]["maxReplicas"]  # old and new ones together
    workers = everything["ScaledObject", "oms-worker"]["maxReplicaCount"] + 1
    relays = everything["Deployment", "oms-relay"]["replicas"] + 1
    commands = 3 * 2  # the migrator, and commands
    of_apis: int = apis * settings.api_processes * (settings.pool_size + EXPORTS_AT_ONCE)
    primary = of_apis + (3 + relays - 1) + workers * (settings.worker_processes + 6) + commands
    return primary, primary + of_apis + apis * settings.api_processes


def test_postgresql_has_the_connections_that_the_pods_need_at_the_upper_end(tmp_path: Path) -> None:
    """Also while a rollout doubles the APIs, and after a standby that was read has become the primary."""
    guide = (ROOT / "docs/operations/kubernetes.md").read_text()
    needed = _connections(OVERLAYS[0], tmp_path)
    for build, connections in zip((OVERLAYS[0], COMPLETE[0]), needed, strict=True):
        parameters = by_name(build, "Cluster")["oms-database"]["spec"]["postgresql"]["parameters"]
        assert connections <= int(parameters["max_connections"])
        assert f"= {connections} of the {parameters['max_connections']}" in guide


def test_the_cluster_of_cloudnativepg_is_what_the_settings_name(tmp_path: Path) -> None:
    """Services, role and database; three servers, of which two have each commit."""
    (overlay, complete) = (OVERLAYS[0], COMPLETE[0])
    cluster = by_name(overlay, "Cluster")["oms-database"]
    initdb = cluster["spec"]["bootstrap"]["initdb"]
    name = cluster["metadata"]["name"]
    assert {secret for secret, _ in MADE_BY_CLOUDNATIVEPG} == {f"{name}-app", f"{name}-ca"}
    assert cluster["spec"]["instances"] == 3
    assert cluster["spec"]["postgresql"]["synchronous"] == {
        "method": "any",
        "number": 1,
        "dataDurability": "required",
        "failoverQuorum": True,
    }
    (pooler,) = by_name(complete, "Pooler").values()
    assert (pooler["spec"]["cluster"]["name"], pooler["spec"]["type"]) == (name, "rw")
    standbys = [f"{name}-{number}" for number in range(1, cluster["spec"]["instances"] + 1)]

    def url(*hosts: str) -> str:
        servers = ",".join(f"{host}:5432" for host in hosts)
        return f"postgresql://{initdb['owner']}@{servers}/{initdb['database']}?sslmode=verify-full&"

    for each in ours(overlay).values():
        settings = settings_of(overlay, each, tmp_path)
        assert settings.database_url.startswith(url(f"{name}-rw"))
        assert (settings.database_read_url, settings.database_direct_url) == ("", "")
    for each in ours(complete).values():
        settings = settings_of(complete, each, tmp_path)
        assert settings.database_url.startswith(url(pooler["metadata"]["name"]))
        assert settings.database_pooler == pooler["spec"]["pgbouncer"]["poolMode"] == "transaction"
        assert settings.database_direct_url.startswith(url(f"{name}-rw"))
        assert settings.database_read_url.startswith(url(*standbys))
    names = cluster["spec"]["certificates"]["serverAltDNSNames"]
    assert names == [pooler["metadata"]["name"], *standbys]
    services = {service: each["spec"]["selector"] for service, each in by_name(complete, "Service").items()}
    for standby in standbys:  # each name is one server, as docs/operations/standbys.md asks
        assert services[standby] == {
            "cnpg.io/cluster": name,
            "cnpg.io/instanceName": standby,
            "cnpg.io/instanceRole": "replica",
        }


@pytest.mark.parametrize("build", COMPLETE)
def test_what_watches_and_scales_names_metrics_jobs_and_pods_that_exist(build: str) -> None:
    """The alerts know the same jobs."""
    everything = manifests(build)
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
    service = by_name(build, "Service")[backend["name"]]
    assert backend["port"] in {port["port"] for port in service["spec"]["ports"]}
