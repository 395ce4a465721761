"""What the overlays in ``deploy/kubernetes`` apply, and the settings that their containers start with."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from shared.settings import Settings
from tests.kustomizations import FOLDER, OVERLAYS, Manifest, build, containers_of, with_everything
from tests.processes import ROOT

COMPLETE = tuple(f"{overlay}, complete" for overlay in OVERLAYS)
"""The overlays with everything that is commented out in their kustomizations."""
BUILDS = (*OVERLAYS, *COMPLETE)

_SECRETS = {
    "OMS_DATABASE_URL": "postgresql://shop_api@db/orders",
    "OMS_DATABASE_DIRECT_URL": "postgresql://shop_api@db-1/orders",
    "OMS_DATABASE_READ_URL": "postgresql://shop_api@db-2,db-3/orders",
    "OMS_BROKER_URL": "amqps://oms:secret@rabbitmq/oms?ssl_ca_certs=/etc/rabbitmq/ca.crt",
    "OMS_REDIS_PASSWORD": "secret",
    "OMS_SECRET_KEY": bytes(range(32)).hex(),
}
_AUTHORITIES = {"database-ca": "OMS_DATABASE_URL", "rabbitmq-ca": "OMS_BROKER_URL"}
"""Volumes with the certificate of an authority, and the setting that names its file."""
_OF_LIBRARIES = {
    "PGPASSWORD",
    *re.findall(r"`(OTEL_\w+)`", (ROOT / "docs/operations/tracing.md").read_text()),
}


@cache
def manifests(name: str) -> tuple[Manifest, ...]:
    """Return what is applied with this overlay, one of ``BUILDS``."""
    overlay, _, complete = name.partition(", ")
    if not complete:
        return tuple(build(FOLDER / overlay))
    with TemporaryDirectory() as folder:
        return tuple(build(with_everything(overlay, Path(folder))))


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
    values: dict[str, str] = {}
    for source in container["envFrom"]:
        values |= by_name(overlay, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    for variable in container["env"]:
        assert variable["name"] not in values, "it would be in two places"
        assert ("valueFrom" in variable) == (variable["name"] in {*_SECRETS, "PGPASSWORD"})
        values[variable["name"]] = variable.get("value") or _SECRETS.get(variable["name"], "")
    values = {name: value for name, value in values.items() if name not in _OF_LIBRARIES}
    certificate = tmp_path / "ca.crt"
    certificate.touch()
    for mount in container["volumeMounts"]:
        if variable_name := _AUTHORITIES.get(mount["name"]):
            place = f"{mount['mountPath']}/ca.crt"
            assert place in values[variable_name]
            values = {name: value.replace(place, str(certificate)) for name, value in values.items()}
    return Settings.model_validate_strings(
        {name.removeprefix("OMS_").lower(): value for name, value in values.items()}
    )
