"""One version everywhere: of the project, of both contracts, and of the latest release in the changelog."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from tests.command_steps import oms
from tests.processes import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONTRACTS = [
    yaml.safe_load((ROOT / "contract" / name).read_text())["info"]
    for name in ("openapi.yaml", "asyncapi.yaml")
]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
RELEASES: list[tuple[str, str]] = re.findall(
    r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", CHANGELOG, re.MULTILINE
)


def test_the_contracts_and_the_changelog_have_the_projects_version() -> None:
    assert [RELEASES[0][0], *(contract["version"] for contract in CONTRACTS)] == [PROJECT["version"]] * 3


def test_the_command_line_prints_it() -> None:
    assert oms("--version").stdout == f"{PROJECT['version']}\n"


def test_the_kubernetes_manifests_run_the_image_of_the_projects_version() -> None:
    """An earlier one would refuse settings that it does not know."""
    kustomization = ROOT / "deploy" / "kubernetes" / "base" / "kustomization.yaml"
    (image,) = yaml.safe_load(kustomization.read_text())["images"]
    assert image["newTag"] == PROJECT["version"]


def test_the_contracts_name_the_projects_licence() -> None:
    assert (ROOT / "LICENSE").read_text().startswith(f"{PROJECT['license']} License\n")
    assert [contract["license"]["name"] for contract in CONTRACTS] == [PROJECT["license"]] * 2


def test_the_changelog_begins_with_unreleased_changes_and_lists_the_newest_version_first() -> None:
    headings = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert headings == ["[Unreleased]", *(f"[{version}] - {day}" for version, day in RELEASES)]
    numbers = [tuple(map(int, version.split("."))) for version, _ in RELEASES]
    assert numbers == sorted(numbers, reverse=True)
    assert [day for _, day in RELEASES] == sorted((day for _, day in RELEASES), reverse=True)


@pytest.mark.parametrize("kind", re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE))
def test_the_changelog_uses_the_kinds_of_keep_a_changelog(kind: str) -> None:
    assert kind in {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
