"""What the overlays in ``deploy/kubernetes`` apply, and the settings that their containers start with."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from shared.settings import Settings
from tests.kustomizations import FOLDER, Manifest, build, containers_of


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


def settings_of(overlay: str, container: Manifest, tmp_path: Path) -> Settings:
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
            values = {name: value.replace(place, str(certificate)) for name, value in values.items()}
    return Settings.model_validate_strings(
        {name.removeprefix("OMS_").lower(): value for name, value in values.items()}
    )
