"""The kustomizations in ``deploy/kubernetes``: complete, and valid for Kubernetes and the operators."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.custom_resources import faults_of, is_custom
from tests.kubernetes_manifests import COMPLETE, manifests
from tests.kustomizations import COMPONENTS, FOLDER, OVERLAYS, Manifest, build, is_workload, with_everything

OLDEST_KUBERNETES = "1.30.0"


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
@pytest.mark.parametrize("overlay", COMPLETE)
def test_kubernetes_and_the_operators_know_every_member(overlay: str, version: str) -> None:
    """By Kubernetes' own schemas, strictly, and by excerpts of the operators' definitions."""
    for manifest in manifests(overlay):
        if is_custom(manifest):
            assert faults_of(manifest) == []
        else:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_an_unknown_member_of_a_custom_resource_is_noticed() -> None:
    """And a value that the operator's definition does not have."""
    (cluster,) = (each for each in build(FOLDER / OVERLAYS[0]) if each["kind"] == "Cluster")
    assert faults_of(cluster) == []
    cluster["spec"]["postgresql"]["synchronous"].update(method="all", nodes=2)
    assert len(faults_of(cluster)) == 2


def test_every_file_is_applied_or_is_an_example_and_the_components_fit_both_overlays() -> None:
    """A file that no kustomization names would be forgotten."""
    named = set()
    for file in FOLDER.rglob("kustomization.yaml"):
        text = re.sub(r"^  # - ", "  - ", file.read_text(), flags=re.MULTILINE)
        content = yaml.safe_load(text)
        paths = [*content.get("resources", []), *content.get("components", [])]
        paths += [patch["path"] for patch in content.get("patches", []) if "path" in patch]
        named |= {(file.parent / path).resolve() for path in paths}
        if file.parent.name in OVERLAYS:
            shared = {path for path in content["components"] if path.startswith("../")}
            assert shared == {f"../{name}" for name in COMPONENTS}
    files = {file for file in FOLDER.rglob("*.yaml") if file.name != "kustomization.yaml"}
    assert {file for file in files - named if not file.name.endswith(".example.yaml")} == set()
    for overlay, complete in zip(OVERLAYS, COMPLETE, strict=True):
        everything = manifests(complete)
        assert len(everything) > len(manifests(overlay))
        (worker,) = (
            each for each in everything if each["metadata"]["name"] == "oms-worker" and is_workload(each)
        )
        assert "replicas" not in worker["spec"]
