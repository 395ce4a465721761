"""The network policies of ``deploy/kubernetes``: each pod reaches what it needs, and nothing else."""

from __future__ import annotations

import re
from functools import cache
from ipaddress import ip_network
from typing import Any

import pytest

from shared.settings import Settings
from shared.webhook_addresses import RefusedAddressError
from tests.kubernetes_manifests import COMPLETE, by_name, manifests
from tests.kustomizations import OVERLAYS, is_workload
from tests.network_policies import Peer, is_allowed
from tests.processes import ROOT

PUBLIC, PRIVATE, METADATA = (
    Peer(address="93.184.215.14"),
    Peer(address="10.1.2.3"),
    Peer(address="169.254.169.254"),
)
DNS = Peer({"k8s-app": "kube-dns"}, "kube-system")
DATABASES = {
    "with-cloudnativepg": Peer({"cnpg.io/cluster": "oms-database", "cnpg.io/podRole": "instance"}),
    "with-external-database": Peer(address="192.0.2.10"),
}
TARGETS = {
    "PostgreSQL": "database",
    "Redis": "redis",
    "`OMS_JWKS`": "identity provider",
    "webhook endpoints": "https",
    "RabbitMQ": "rabbitmq",
}
"""What docs/operations/scale.md says, and what that is in the tests."""


def policies(build: str) -> list[dict[str, Any]]:
    """Return the policies of a build."""
    return list(by_name(build, "NetworkPolicy").values())


@cache
def pods(build: str) -> dict[str, Peer]:
    """Return one pod of each deployment and job, by its component."""
    peers = {}
    for manifest in filter(is_workload, manifests(build)):
        template = manifest["spec"]["template"]
        labels = template["metadata"]["labels"]
        ports = [port for container in template["spec"]["containers"] for port in container.get("ports", [])]
        peers[labels["app.kubernetes.io/component"]] = Peer(
            labels, ports={port["name"]: port["containerPort"] for port in ports}
        )
    return peers


def _reached(build: str) -> dict[str, set[str]]:
    """Return what each pod reaches."""
    ours = pods(build)
    targets = {
        "dns": (DNS, 53),
        "database": (DATABASES[build.partition(",")[0]], 5432),
        "ssh of the database": (DATABASES[build.partition(",")[0]], 22),
        "redis": (ours["redis"], 6379),
        "api": (ours["api"], 8000),
        "worker": (ours["worker"], 9100),
        "https": (PUBLIC, 443),
        "smtp": (PUBLIC, 25),
        "private": (PRIVATE, 443),
        "metadata": (METADATA, 80),
        "another pod": (Peer({"app": "other"}, "other"), 443),
        # In networks that are for examples:
        "identity provider": (Peer(address="198.51.100.7"), 443),
        "rabbitmq": (Peer(address="203.0.113.7"), 5671),
        "collector": (Peer({"app": "collector"}, "monitoring"), 4318),
        "prometheus": (Peer({"app": "prometheus"}, "monitoring"), 9090),
    }
    return {
        name: {what for what, (to, port) in targets.items() if is_allowed(policies(build), origin, to, port)}
        for name, origin in ours.items()
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_pod_reaches_the_servers_that_it_needs_and_no_others(overlay: str) -> None:
    """Redis nothing at all, and only the worker the internet, of which the examples' networks are a part."""
    assert _reached(overlay) == {
        "migrate": {"dns", "database"},
        "api": {"dns", "database", "redis"},
        "relay": {"dns", "database", "redis"},
        "worker": {"dns", "database", "redis", "https", "identity provider", "rabbitmq"},
        "redis": set(),
    }
    assert all(
        is_allowed(policies(overlay), origin, DNS, 53, "UDP") == (name != "redis")
        for name, origin in pods(overlay).items()
    )


@pytest.mark.parametrize("build", COMPLETE)
def test_each_pod_reaches_what_the_guide_says_that_its_process_must_reach(build: str) -> None:
    """And DNS and the collector of traces; nothing else."""
    guide = (ROOT / "docs/operations/scale.md").read_text()
    _, _, table = guide.partition("| process | must reach | is reached by |\n")
    rows = dict(re.findall(r"^\| `?(\w+)`?[^|]*\| ([^|]+) \|", table.partition("\n\n")[0], re.MULTILINE))
    reached = _reached(build)
    assert set(rows) == {"API", *set(reached) - {"api", "redis"}}
    for process, text in rows.items():
        name = process.lower()
        needed = {target for word, target in TARGETS.items() if word in text} | {"dns"}
        if name != "migrate":
            needed |= {"collector"}
        public = {"identity provider", "rabbitmq"} if name == "worker" else set()
        assert reached[name] - public == needed - public, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_callers_reach_the_api_alone_and_prometheus_every_process(overlay: str) -> None:
    """Nobody else reaches any pod, from this namespace or another."""
    ours = pods(overlay)
    ports = {"migrate": 8000, "api": 8000, "relay": 9100, "worker": 9100, "redis": 6379}

    def reaches(origin: Peer) -> set[str]:
        return {
            name for name, port in ports.items() if is_allowed(policies(overlay), origin, ours[name], port)
        }

    assert reaches(Peer({"app": "envoy"}, "gateway")) == {"api"}
    assert reaches(Peer({"app": "prometheus"}, "monitoring")) == {"api", "relay", "worker"}
    assert (
        reaches(Peer({"app": "other"}, "other"))
        == reaches(Peer({"app": "other"}))
        == reaches(PUBLIC)
        == set()
    )


def test_cloudnativepg_reaches_its_servers_and_strangers_do_not() -> None:
    """The operator asks for their state, a pooler has their label, and standbys follow the primary."""
    overlay = "with-cloudnativepg"
    database = DATABASES[overlay]
    operator = Peer({"app.kubernetes.io/name": "cloudnative-pg"}, "cnpg-system")
    pooler = Peer({"cnpg.io/cluster": "oms-database", "cnpg.io/poolerName": "oms-database-pooler"})
    for origin in (operator, database, pooler):
        assert is_allowed(policies(overlay), origin, database, 5432)
        assert is_allowed(policies(overlay), origin, database, 8000)
    prometheus = Peer({"app": "prometheus"}, "monitoring")
    assert is_allowed(policies(overlay), prometheus, database, 9187)
    assert is_allowed(policies(overlay), prometheus, pooler, 9127)
    assert not is_allowed(policies(overlay), prometheus, database, 5432)
    assert is_allowed(policies(overlay), pods(overlay)["api"], pooler, 5432)
    for stranger in (pods(overlay)["redis"], Peer({"app": "other"}), Peer({"app": "other"}, "other"), PUBLIC):
        assert not is_allowed(policies(overlay), stranger, database, 5432)


def test_the_worker_reaches_what_the_settings_let_webhooks_be_sent_to() -> None:
    """The same ports; and of the networks that the policy leaves out, the settings refuse each."""
    values = by_name("with-cloudnativepg", "ConfigMap")["oms"]["data"]
    (spec,) = (
        p["spec"] for p in policies("with-cloudnativepg") if p["metadata"]["name"] == "oms-worker-webhooks"
    )
    (rule,) = spec["egress"]
    defaults = {"database_url": "postgresql://oms@db", "redis_url": "redis://redis", "webhook_networks": ""}
    settings = Settings.model_validate_strings({**defaults, "webhook_ports": values["OMS_WEBHOOK_PORTS"]})
    allowed = [(port["port"], port.get("endPort", port["port"])) for port in rule["ports"]]
    assert sorted(allowed) == sorted(settings.webhook_ports)
    for block in (peer["ipBlock"] for peer in rule["to"]):
        for network in map(ip_network, block["except"]):
            for address in (network[0], network[network.num_addresses // 2], network[-1]):
                with pytest.raises(RefusedAddressError):
                    settings.webhook_addresses.check(address, "https")
