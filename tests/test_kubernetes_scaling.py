"""What selects, scales and watches the pods in ``deploy/kubernetes``, and the database that serves them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.custom_resources import custom_manifests
from tests.kubernetes_manifests import by_name, labels_of, manifests, ours, settings_of
from tests.kustomizations import FOLDER, OVERLAYS, build, containers_of, is_workload, with_everything
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


def _connections(overlay: str, tmp_path: Path) -> int:
    """Return how many connections there are at most, by the table in docs/operations/scale.md."""
    everything = {
        (each["kind"], each["metadata"]["name"]): each.get("spec", {})
        for each in build(with_everything(overlay, tmp_path))
    }
    settings = settings_of(overlay, ours(overlay)["worker"], tmp_path)
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
        settings_of("with-cloudnativepg", each, tmp_path).database_url
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
    text = (FOLDER / "with-cloudnativepg" / "settings.yaml").read_text()  # also what is commented out
    hosts = set(re.findall(r"OMS_DATABASE_(?:READ_|DIRECT_)?URL: postgresql://oms@([\w-]+):5432/oms\?", text))
    assert hosts == {f"{name}-rw", f"{name}-ro", pooler["metadata"]["name"]}
    assert pooler["spec"]["cluster"]["name"] == name
    assert cluster["spec"]["certificates"]["serverAltDNSNames"] == [pooler["metadata"]["name"]]


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
