"""What Kubernetes' network policies let through, as their reference says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod with its namespace's labels, or an address outside the cluster."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = "oms"
    address: str = ""
    """If it is given, this is no pod."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """Numbers of its named ports."""


def is_allowed(
    policies: Iterable[dict[str, Any]], origin: Peer, to: Peer, port: int, protocol: str = "TCP"
) -> bool:
    """Return whether ``origin`` may send to this port: its own policies and those of ``to`` must allow it."""
    policies = list(policies)
    return _passes(policies, "Egress", origin, to, (to, port, protocol)) and _passes(
        policies, "Ingress", to, origin, (to, port, protocol)
    )


def selects(selector: dict[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a label selector selects something with these labels."""
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def _passes(
    policies: list[dict[str, Any]], kind: str, subject: Peer, other: Peer, port: tuple[Peer, int, str]
) -> bool:
    if subject.address or subject.namespace != "oms":
        return True  # no policy of ours is about it
    about = [
        policy["spec"]
        for policy in policies
        if kind in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], subject.labels)
    ]
    rules = [rule for spec in about for rule in spec.get(kind.lower(), [])]
    side = "to" if kind == "Egress" else "from"
    return not about or any(
        any(_is_peer(peer, other) for peer in rule[side])
        and any(_is_port(allowed, *port) for allowed in rule["ports"])
        for rule in rules
    )


def _is_peer(peer: dict[str, Any], other: Peer) -> bool:
    if "ipBlock" in peer:
        if not other.address:
            return False  # the address of a pod may be rewritten: a policy about it would be unreliable
        address, block = ip_address(other.address), peer["ipBlock"]
        return address in ip_network(block["cidr"]) and not any(
            address in ip_network(network) for network in block.get("except", [])
        )
    if other.address:
        return False
    namespace = {"kubernetes.io/metadata.name": other.namespace}
    in_namespace = (
        selects(peer["namespaceSelector"], namespace)
        if "namespaceSelector" in peer
        else other.namespace == "oms"
    )
    return in_namespace and selects(peer.get("podSelector", {}), other.labels)


def _is_port(allowed: dict[str, Any], to: Peer, port: int, protocol: str) -> bool:
    first = to.ports.get(allowed["port"]) if isinstance(allowed["port"], str) else allowed["port"]
    return (
        protocol == allowed["protocol"]
        and first is not None
        and first <= port <= allowed.get("endPort", first)
    )
