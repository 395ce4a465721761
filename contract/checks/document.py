"""The contract as a document in which one can walk: exact numbers, references followed, places named.

Every tool here names what it finds by a JSON Pointer (RFC 6901) into the file, as a URI fragment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

CONTRACT = Path(__file__).parent.parent / "openapi.yaml"
EVENTS = Path(__file__).parent.parent / "asyncapi.yaml"
METHODS = ("get", "head", "post", "put", "patch", "delete", "options", "trace")


class ContractError(Exception):
    """The document is no contract: it does not parse, or a reference leads nowhere."""


class _ExactLoader(yaml.CSafeLoader):
    """YAML with decimal fractions as ``Decimal`` and dates left as text, as JSON would have them."""


def _decimal(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> Decimal:
    return Decimal(str(loader.construct_scalar(node)).replace("_", ""))


def _text(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_ExactLoader.add_constructor("tag:yaml.org,2002:float", _decimal)
_ExactLoader.add_constructor("tag:yaml.org,2002:timestamp", _text)


def escape(key: str) -> str:
    """Write a key as a reference token of a JSON Pointer."""
    return key.replace("~", "~0").replace("/", "~1")


@dataclass(frozen=True)
class Place:
    """A value of the document and the pointer to it."""

    root: Mapping[str, Any]
    pointer: str
    value: Any

    def child(self, key: str | int) -> Place | None:
        """Give the value under a key, references followed; None if there is none."""
        value = self.value
        if isinstance(value, Mapping):
            found = next((value[name] for name in value if str(name) == str(key)), None)
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            found = value[key]
        else:
            found = None
        return (
            None
            if found is None
            else Place(self.root, f"{self.pointer}/{escape(str(key))}", found).followed()
        )

    def children(self) -> Iterator[tuple[str, Place]]:
        """Walk the members of an object or the elements of an array, references followed."""
        keys = list(self.value) if isinstance(self.value, Mapping) else list(range(len(self.value)))
        for key in keys:
            child = self.child(key)
            if child is not None:
                yield str(key), child

    def members(self, key: str) -> dict[str, Place]:
        """Give the members under a key, none if the key is missing."""
        child = self.child(key)
        return dict(child.children()) if child else {}

    def get(self, key: str, default: Any = None) -> Any:
        """Give the bare value under a key."""
        return self.value.get(key, default) if isinstance(self.value, Mapping) else default

    def followed(self) -> Place:
        """Go where a bare reference leads; one with siblings is a schema of its own and stays."""
        place = self
        for _ in range(50):
            reference = place.get("$ref")
            if not isinstance(reference, str) or len(place.value) > 1:
                return place
            place = place.target(reference)
        message = f"the reference at {self.pointer} leads round in a circle"
        raise ContractError(message)

    def target(self, reference: str) -> Place:
        """Give the place that a reference names."""
        value: Any = self.root
        if not reference.startswith("#/"):
            message = f"{self.pointer} refers to {reference}, outside this document"
            raise ContractError(message)
        for token in reference[2:].split("/"):
            key = token.replace("~1", "/").replace("~0", "~")
            if not isinstance(value, Mapping) or key not in value:
                message = f"{self.pointer} refers to {reference}, which does not exist"
                raise ContractError(message)
            value = value[key]
        return Place(self.root, reference, value)


def parse(text: str) -> Place:
    """Read a contract from YAML (or JSON, which is YAML).

    Raises:
        ContractError: it is none.

    """
    try:
        document = yaml.load(text, Loader=_ExactLoader)  # noqa: S506 (a SafeLoader with exact numbers)
    except yaml.YAMLError as error:
        message = f"not YAML: {error}"
        raise ContractError(message) from None
    if not isinstance(document, Mapping) or not {"openapi", "asyncapi"} & document.keys():
        message = "not an OpenAPI document: it has no member `openapi`, nor `asyncapi`"
        raise ContractError(message)
    return Place(document, "#", document)


def load(path: Path = CONTRACT) -> Place:
    """Read the contract from a file."""
    return parse(path.read_text(encoding="utf-8"))


def operations(contract: Place, section: str = "paths") -> Iterator[tuple[str, str, Place]]:
    """Walk the operations: path (or webhook), method in lower case, and the operation itself."""
    for path, item in contract.members(section).items():
        for method in METHODS:
            operation = item.child(method)
            if operation is not None:
                yield path, method, operation


def parameters(
    contract: Place, path: str, operation: Place, section: str = "paths"
) -> dict[tuple[str, str], Place]:
    """Give an operation's parameters, with those of its path, by (where, name); headers in lower case."""
    item = contract.members(section)[path]
    found = {}
    for holder in (item, operation):
        for parameter in holder.members("parameters").values():
            where, name = parameter.get("in"), parameter.get("name")
            found[where, name.lower() if where == "header" else name] = parameter
    return found
