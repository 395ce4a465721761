"""Builds the kustomizations of ``deploy/kubernetes``: as much of kustomize as they use, and nothing else.

What it does not know it refuses. Where kubectl is installed, a test compares its result with kubectl's.
"""

from __future__ import annotations

import copy
import re
import shutil
from typing import TYPE_CHECKING, Any

import yaml

from tests.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("with-cloudnativepg", "with-external-database")
COMPONENTS = (
    *("redis", "gateway", "pod-monitors", "autoscaling-on-lag"),
    *("identity-provider", "traces", "rabbitmq"),
)
_MEMBERS = {"apiVersion", "kind", "resources", "components", "patches", "images"}

Manifest = dict[str, Any]


def build(folder: Path) -> list[Manifest]:
    """Return what ``kubectl apply -k`` would apply.

    Raises:
        ValueError: a kustomization has something that this does not know, or a patch has no target.

    """
    return _build(folder, [])


def _build(folder: Path, before: list[Manifest]) -> list[Manifest]:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(kustomization) - _MEMBERS:
        raise ValueError(f"{folder}: {unknown}")
    manifests = list(before)
    for resource in kustomization.get("resources", []):
        path = folder / resource
        manifests += build(path) if path.is_dir() else read(path)
    for component in kustomization.get("components", []):
        manifests = _build(folder / component, manifests)
    for patch in kustomization.get("patches", []):
        _apply(folder, patch, manifests)
    for image in kustomization.get("images", []):
        for container in containers_of(*manifests):
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    return manifests


def _apply(folder: Path, patch: dict[str, Any], manifests: list[Manifest]) -> None:
    content = yaml.safe_load((folder / patch["path"]).read_text() if "path" in patch else patch["patch"])
    target = patch.get("target") or {"kind": content["kind"], "name": content["metadata"]["name"]}
    chosen = [manifest for manifest in manifests if _matches(manifest, target)]
    if not chosen:
        raise ValueError(f"{folder}: there is no {target}")
    for manifest in chosen:
        if isinstance(content, list):
            for operation in content:
                _operate(manifest, operation)
        else:
            _merge(manifest, content)


def read(file: Path) -> list[Manifest]:
    """Return a file's manifests. Members that share an anchor are separate ones."""
    return [copy_without_sharing(manifest) for manifest in yaml.safe_load_all(file.read_text())]


def copy_without_sharing(value: Any) -> Any:
    """Return a copy in which nothing occurs twice, so that a patch changes one place only."""
    if isinstance(value, dict):
        return {name: copy_without_sharing(member) for name, member in value.items()}
    return [copy_without_sharing(item) for item in value] if isinstance(value, list) else value


def containers_of(*manifests: Manifest) -> list[Manifest]:
    """Return all containers of the pods that the manifests make, those that only begin included."""
    pods = [manifest["spec"]["template"]["spec"] for manifest in manifests if is_workload(manifest)]
    return [
        container
        for pod in pods
        for container in (*pod.get("initContainers", []), *pod.get("containers", []))
    ]


def is_workload(manifest: Manifest) -> bool:
    """Return whether it makes pods of its own."""
    return manifest["kind"] in {"Deployment", "Job"}


def with_everything(overlay: str, folder: Path) -> Path:
    """Copy the manifests, and take into the overlay's kustomization what is commented out there."""
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    file = folder / overlay / "kustomization.yaml"
    text, taken = re.subn(r"^  # - ", "  - ", file.read_text(), flags=re.MULTILINE)
    if not taken:
        raise ValueError(f"{overlay} has no line that is commented out")
    file.write_text(text)
    return folder / overlay


def _matches(manifest: Manifest, target: dict[str, str]) -> bool:
    if unknown := set(target) - {"kind", "name"}:
        raise ValueError(f"target {unknown}")
    return manifest["kind"] == target["kind"] and bool(
        re.fullmatch(target["name"], manifest["metadata"]["name"])
    )


def _operate(manifest: Manifest, operation: dict[str, Any]) -> None:
    """Carry out a JSON patch's operation (RFC 6902): ``add`` at the end of a list, or ``remove``."""
    place: Any = manifest
    *parents, last = operation["path"].removeprefix("/").split("/")
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    if (operation["op"], last) == ("add", "-"):
        place.append(copy.deepcopy(operation["value"]))
    elif operation["op"] == "remove":
        del place[last]
    else:
        raise ValueError(f"operation {operation}")


def _merge(manifest: Manifest, patch: Manifest) -> None:
    for name, value in patch.items():
        if isinstance(value, dict):
            _merge(manifest.setdefault(name, {}), value)
        elif isinstance(value, list) or value is None:
            raise ValueError(f"{name}: only members are merged here, not lists or null")
        else:
            manifest[name] = value
