"""Checks resources of operators against excerpts of the operators' own definitions (CRDs).

``tests/custom_resource_schemas.yaml`` has what a definition says about the members that are used here; any
other is refused. After a member was added, write it anew from the definitions that the operators publish,
each at its release in ``RELEASES``: ``python -m tests.custom_resources FILE…``. Unknown members
are refused then too.

Not checked: rules in CEL, and what an operator's own webhook refuses.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.kustomizations import FOLDER, Manifest, read

EXCERPTS = Path(__file__).with_name("custom_resource_schemas.yaml")
RELEASES = {
    "postgresql.cnpg.io": "CloudNativePG 1.30.0, config/crd/bases",
    "keda.sh": "KEDA 2.20.2, config/crd/bases",
    "monitoring.coreos.com": "Prometheus Operator 0.93.0, example/prometheus-operator-crd",
    "gateway.networking.k8s.io": "Gateway API 1.6.1, config/crd/standard",
}
_KEPT = (
    *("type", "enum", "pattern", "format", "minimum", "maximum", "minLength", "maxLength", "minItems"),
    *("maxItems", "required", "x-kubernetes-int-or-string"),
)

Schema = dict[str, Any]


def is_custom(manifest: Manifest) -> bool:
    """Return whether an operator defines its kind."""
    return manifest["apiVersion"].split("/")[0] in RELEASES


def faults_of(manifest: Manifest, schemas: dict[str, Schema] | None = None) -> list[str]:
    """Return what the definition of its kind does not allow; empty if all is well."""
    schemas = yaml.safe_load(EXCERPTS.read_text()) if schemas is None else schemas
    validator = jsonschema.Draft202012Validator(schemas[_kind(manifest)])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


def excerpt(schema: Schema, examples: list[Any]) -> Schema:
    """Return what the schema says about the members of the examples; it allows no others.

    Raises:
        KeyError: the schema does not know a member.

    """
    kept = {name: schema[name] for name in _KEPT if name in schema}
    objects = [example for example in examples if isinstance(example, dict)]
    if schema.get("type") == "array":
        items = [item for example in examples for item in example]
        kept["items"] = excerpt(schema["items"], items)
    elif objects and "additionalProperties" in schema:
        kept["additionalProperties"] = excerpt(
            schema["additionalProperties"], [value for example in objects for value in example.values()]
        )
    elif objects:
        names = sorted({name for example in objects for name in example})
        kept["properties"] = {
            name: excerpt(schema["properties"][name], [each[name] for each in objects if name in each])
            for name in names
        }
        kept["additionalProperties"] = False
    return kept


def _kind(manifest: Manifest) -> str:
    return f"{manifest['apiVersion']} {manifest['kind']}"


def custom_manifests() -> list[Manifest]:
    """Return all of them, also those that are commented out in a kustomization."""
    files = [file for file in sorted(FOLDER.rglob("*.yaml")) if file.name != "kustomization.yaml"]
    manifests = [manifest for file in files for manifest in read(file) if "kind" in manifest]
    return [manifest for manifest in manifests if is_custom(manifest)]


def main(files: list[str]) -> int:
    """Write the excerpts from the definitions in these files."""
    schemas: dict[str, Schema] = {}
    manifests = custom_manifests()
    for definition in (each for file in files for each in yaml.safe_load_all(Path(file).read_text()) if each):
        for version in definition["spec"]["versions"]:
            kind = f"{definition['spec']['group']}/{version['name']} {definition['spec']['names']['kind']}"
            examples = [manifest for manifest in manifests if _kind(manifest) == kind]
            if examples:
                schema = version["schema"]["openAPIV3Schema"]
                # A definition says nothing about metadata, which Kubernetes checks itself.
                schema["properties"]["metadata"] = {
                    "type": "object",
                    "properties": {"name": {"type": "string", "pattern": "^[a-z0-9-]{1,63}$"}},
                    "required": ["name"],
                }
                schemas[kind] = excerpt(schema, examples)
    heading = f"# Written by tests/{Path(__file__).name}, which says from what.\n"
    EXCERPTS.write_text(heading + yaml.safe_dump(schemas, sort_keys=True, width=110))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
