"""Read a contract: exact numbers, references resolved, and a pointer to each value.

The tools here name a place in the contract by a JSON Pointer (RFC 6901), as a URI fragment.
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
    """The document is not a contract: it does not parse, or a reference has no target."""


class _ExactLoader(yaml.CSafeLoader):
    """YAML with decimal fractions as ``Decimal``, and dates as text, as in JSON."""


def _decimal(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> Decimal:
    return Decimal(str(loader.construct_scalar(node)).replace("_", ""))


def _text(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_ExactLoader.add_constructor("tag:yaml.org,2002:float", _decimal)
_ExactLoader.add_constructor("tag:yaml.org,2002:timestamp", _text)


def escape(key: str) -> str:
    """Escape a key for use in a JSON Pointer."""
    return key.replace("~", "~0").replace("/", "~1")


@dataclass(frozen=True)
class Place:
    """A value in the document, with its pointer."""

    root: Mapping[str, Any]
    pointer: str
    value: Any

    def child(self, key: str | int) -> Place | None:
        """Return the value under a key, with references followed; None if the key is missing."""
        value = self.value
        child = None
        if isinstance(value, Mapping):
            child = next((value[name] for name in value if str(name) == str(key)), None)
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            child = value[key]
        if child is None:
            return None
        return Place(self.root, f"{self.pointer}/{escape(str(key))}", child).followed()

    def children(self) -> Iterator[tuple[str, Place]]:
        """Yield the members of an object or the elements of an array, with references followed."""
        keys = list(self.value) if isinstance(self.value, Mapping) else list(range(len(self.value)))
        for key in keys:
            child = self.child(key)
            if child is not None:
                yield str(key), child

    def members(self, key: str) -> dict[str, Place]:
        """Return the members of the value under a key; empty if the key is missing."""
        child = self.child(key)
        return dict(child.children()) if child else {}

    def get(self, key: str, default: Any = None) -> Any:
        """Return the plain value under a key, without following references."""
        return self.value.get(key, default) if isinstance(self.value, Mapping) else default

    def followed(self) -> Place:
        """Return the target of a bare reference, else this place: a reference with siblings is a schema."""
        place = self
        for _ in range(50):
            reference = place.get("$ref")
            if not isinstance(reference, str) or len(place.value) > 1:
                return place
            place = place.target(reference)
        raise ContractError(f"the reference at {self.pointer} is circular")

    def target(self, reference: str) -> Place:
        """Return the place that a reference names.

        Raises:
            ContractError: it is outside the document, or does not exist.

        """
        value: Any = self.root
        if not reference.startswith("#/"):
            raise ContractError(f"{self.pointer} refers to {reference}, outside this document")
        for token in reference[2:].split("/"):
            key = token.replace("~1", "/").replace("~0", "~")
            if not isinstance(value, Mapping) or key not in value:
                raise ContractError(f"{self.pointer} refers to {reference}, which does not exist")
            value = value[key]
        return Place(self.root, reference, value)


def parse(text: str) -> Place:
    """Parse a contract from YAML (or JSON, which is YAML).

    Raises:
        ContractError: the text is not a contract.

    """
    try:
        document = yaml.load(text, Loader=_ExactLoader)  # noqa: S506 (a SafeLoader with exact numbers)
    except yaml.YAMLError as error:
        raise ContractError(f"not YAML: {error}") from None
    if not isinstance(document, Mapping) or not {"openapi", "asyncapi"} & document.keys():
        raise ContractError("not a contract: it has neither a member `openapi` nor `asyncapi`")
    return Place(document, "#", document)


def load(path: Path = CONTRACT) -> Place:
    """Read the contract from a file."""
    return parse(path.read_text(encoding="utf-8"))


def operations(contract: Place, section: str = "paths") -> Iterator[tuple[str, str, Place]]:
    """Yield each operation: its path (or webhook), its method in lower case, and the operation."""
    for path, item in contract.members(section).items():
        for method in METHODS:
            operation = item.child(method)
            if operation is not None:
                yield path, method, operation


def media_types(holder: Place) -> dict[str, Place]:
    """Return the content of a body by media type.

    A request body's ``x-also-accepts`` lists media types that are read like the first of its ``content``.
    """
    content = holder.members("content")
    return content | dict.fromkeys(holder.get("x-also-accepts", ()), *list(content.values())[:1])


def parameters(
    contract: Place, path: str, operation: Place, section: str = "paths"
) -> dict[tuple[str, str], Place]:
    """Return the parameters of an operation and of its path, by (``in``, name); headers in lower case."""
    item = contract.members(section)[path]
    by_name = {}
    for holder in (item, operation):
        for parameter in holder.members("parameters").values():
            where, name = parameter.get("in"), parameter.get("name")
            by_name[where, name.lower() if where == "header" else name] = parameter
    return by_name
