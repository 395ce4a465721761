"""Find the changes of a schema that break callers. Pure.

A schema of a *request* may only become wider, so that what a caller sends stays valid. A schema of a
*response* may only become narrower, so that a caller receives nothing unexpected; new members of objects are
the exception, since callers must ignore unknown members. The same holds for a schema of an *event*, and no
member may become required in it: events that were recorded before keep their bytes. Keywords that can't be
compared (two different patterns) count as breaking.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from contract.checks.document import Place

Direction = Literal["request", "response", "event"]

LOWER_BOUNDS = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
UPPER_BOUNDS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
OPAQUE = ("pattern", "multipleOf", "format", "not", "propertyNames", "dependentRequired", "patternProperties")
"""Keywords whose values can only be compared for equality; without them everything is allowed."""


@dataclass(frozen=True)
class Change:
    """A breaking change: where it is, and what changed."""

    pointer: str
    text: str

    def __str__(self) -> str:
        """Return a line for the report."""
        return f"{self.pointer}: {self.text}"


@dataclass(frozen=True)
class Shape:
    """One alternative of a schema: at most one type, with references and ``allOf`` merged."""

    pointer: str
    type: str | None = None
    keywords: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Place] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    items: Place | None = None
    closed: bool = False

    @property
    def values(self) -> list[Any] | None:
        """The only values it allows; None if it does not enumerate them."""
        if "const" in self.keywords:
            return [self.keywords["const"]]
        enum = self.keywords.get("enum")
        return list(enum) if enum is not None else None

    def intersection(self, other: Shape) -> Shape:
        """Return what both allow, as ``allOf`` does; of two bounds, the tighter one applies."""
        keywords = {**self.keywords, **other.keywords}
        for names, tighter in ((LOWER_BOUNDS, max), (UPPER_BOUNDS, min)):
            for name in names:
                if name in self.keywords and name in other.keywords:
                    keywords[name] = tighter(self.keywords[name], other.keywords[name])
        return Shape(
            self.pointer,
            other.type or self.type,
            keywords,
            {**self.properties, **other.properties},
            self.required | other.required,
            other.items or self.items,
            self.closed or other.closed,
        )


def shapes(schema: Place | None) -> list[Shape]:
    """Return the alternatives of a schema; the schema ``false`` has none."""
    if schema is None or schema.value is True:
        return [Shape(schema.pointer if schema else "#")]
    if schema.value is False:
        return []
    additional = schema.get("additionalProperties", schema.get("unevaluatedProperties", True))
    own = Shape(
        schema.pointer,
        keywords={k: v for k, v in schema.value.items() if k in (*LOWER_BOUNDS, *UPPER_BOUNDS, *OPAQUE)}
        | {k: schema.value[k] for k in ("enum", "const", "uniqueItems", "default") if k in schema.value},
        properties=schema.members("properties"),
        required=frozenset(schema.get("required", [])),
        items=schema.child("items"),
        closed=additional is False,
    )
    alternatives = [own]
    if "$ref" in schema.value:
        target = shapes(schema.target(schema.value["$ref"]).followed())
        alternatives = [replace(each.intersection(own), pointer=schema.pointer) for each in target]
    for _, part in (schema.child("allOf") or Place({}, "", [])).children():
        alternatives = [
            replace(one.intersection(each), pointer=own.pointer)
            for each in alternatives
            for one in shapes(part)
        ]
    for keyword in ("oneOf", "anyOf"):
        if keyword in schema.value:
            parts = [shape for _, part in schema.members(keyword).items() for shape in shapes(part)]
            alternatives = [
                replace(each.intersection(part), pointer=part.pointer)
                for each in alternatives
                for part in parts
            ]
    types = schema.get("type")
    if types is not None:
        alternatives = [
            replace(each, type=kind)
            for each in alternatives
            for kind in ([types] if isinstance(types, str) else types)
        ]
    return alternatives


class SchemaComparison:
    """Compares schemas of two contracts, and keeps track of open comparisons: schemas may be recursive."""

    def __init__(self) -> None:
        self._open: set[tuple[str, str, Direction]] = set()

    def changes(self, old: Place | None, new: Place | None, direction: Direction) -> list[Change]:
        """List the breaking changes between two versions of a schema."""
        pair = (old.pointer if old else "", new.pointer if new else "", direction)
        if pair in self._open:
            return []
        self._open.add(pair)
        try:
            return self._of_shapes(shapes(old), shapes(new), direction)
        finally:
            self._open.remove(pair)

    def changes_of_problems(self, old: Place | None, new: Place | None) -> list[Change]:
        """List the breaking changes of the problems of one status, matched by their ``type``.

        A problem type may be added: by RFC 9457, callers handle an unknown type by its status.
        """
        now = {_problem_type(shape): shape for shape in shapes(new)}
        changes: list[Change] = []
        for shape in shapes(old):
            if _problem_type(shape) in now:
                changes += self._of_pair(shape, now[_problem_type(shape)], "response")
            else:
                changes.append(
                    Change(shape.pointer, f"the problem {_problem_type(shape)} is no longer returned")
                )
        return changes

    def _of_shapes(self, old: list[Shape], new: list[Shape], direction: Direction) -> list[Change]:
        """Compare alternatives: a request still accepts each old one, a response returns no new one."""
        if len(old) == len(new) == 1:
            return list(self._of_pair(old[0], new[0], direction))
        changes: list[Change] = []
        required, available = (old, new) if direction == "request" else (new, old)
        for index, each in enumerate(required):
            attempts = [
                list(self._of_pair(*((each, other) if direction == "request" else (other, each)), direction))
                for other in available
            ]
            if any(not attempt for attempt in attempts):
                continue
            same_type = [a for a, other in zip(attempts, available, strict=True) if other.type == each.type]
            if len(old) == len(new) and index < len(attempts) and available[index].type == each.type:
                changes += attempts[index]
            elif len(same_type) == 1:
                changes += same_type[0]
            elif direction == "request":
                changes.append(Change(each.pointer, f"{_describe(each)} is no longer accepted"))
            else:
                changes.append(Change(each.pointer, f"{_describe(each)} may now be returned"))
        return changes

    def _of_pair(self, old: Shape, new: Shape, direction: Direction) -> Iterator[Change]:
        wide, narrow = (new, old) if direction == "request" else (old, new)
        if wide.type not in (None, narrow.type) and (narrow.type, wide.type) != ("integer", "number"):
            yield Change(new.pointer, f"the type changed from {old.type or 'any'} to {new.type or 'any'}")
            return
        yield from _of_values(old, new, direction)
        yield from _of_bounds(old, new, direction)
        if direction == "request" and "default" in old.keywords and not _same(old, new, "default"):
            yield Change(
                new.pointer, f"the default changed from {old.keywords['default']} to {_of(new, 'default')}"
            )
        yield from self._of_members(old, new, direction)
        if old.items or new.items:
            yield from self.changes(old.items, new.items, direction)

    def _of_members(self, old: Shape, new: Shape, direction: Direction) -> Iterator[Change]:
        for name in sorted(set(old.properties) - set(new.properties)):
            if direction != "request" or new.closed:
                yield Change(old.properties[name].pointer, f"the member {name} was removed")
        for name in sorted(set(old.properties) & set(new.properties)):
            yield from self.changes(old.properties[name], new.properties[name], direction)
        if direction == "request":
            for name in sorted(new.required - old.required):
                yield Change(new.pointer, f"the member {name} is newly required")
            if new.closed and not old.closed:
                yield Change(new.pointer, "unknown members are no longer accepted")
        else:
            for name in sorted((old.required - new.required) & set(new.properties)):
                yield Change(new.pointer, f"the member {name} is no longer always present")
        if direction == "event":
            for name in sorted(new.required - old.required):
                yield Change(new.pointer, f"events that were recorded before may not have the member {name}")


def _problem_type(problem: Shape) -> Any:
    return problem.properties["type"].get("const") if "type" in problem.properties else None


def _of_values(old: Shape, new: Shape, direction: Direction) -> Iterator[Change]:
    before, now = old.values, new.values
    if direction == "request" and now is not None:
        lost = [value for value in before if value not in now] if before is not None else None
        if lost is None:
            yield Change(new.pointer, f"only {_listed(now)} are accepted now")
        elif lost:
            yield Change(new.pointer, f"the values {_listed(lost)} are no longer accepted")
    if direction != "request" and before is not None:
        added = [value for value in now if value not in before] if now is not None else None
        if added is None:
            yield Change(new.pointer, f"values other than {_listed(before)} may now be returned")
        elif added:
            yield Change(new.pointer, f"the values {_listed(added)} may now be returned")


def _of_bounds(old: Shape, new: Shape, direction: Direction) -> Iterator[Change]:
    wide, narrow = (new, old) if direction == "request" else (old, new)
    verb = "narrowed" if direction == "request" else "widened"
    for name in (*LOWER_BOUNDS, *UPPER_BOUNDS):
        limit, inner = wide.keywords.get(name), narrow.keywords.get(name)
        if limit is not None and _stays_inside(narrow, inner, limit, lower=name in LOWER_BOUNDS) is False:
            yield Change(new.pointer, f"{name} was {verb}, from {_of(old, name)} to {_of(new, name)}")
    for name in OPAQUE:
        if name in wide.keywords and not _same(old, new, name):
            yield Change(new.pointer, f"{name} changed from {_of(old, name)} to {_of(new, name)}")
    if wide.keywords.get("uniqueItems") and not narrow.keywords.get("uniqueItems"):
        yield Change(new.pointer, f"uniqueItems was {verb}")


def _stays_inside(narrow: Shape, inner: Any, limit: Any, *, lower: bool) -> bool:
    if narrow.values is not None:
        return True  # enumerated values are compared one by one
    return inner is not None and bool(inner >= limit if lower else inner <= limit)


def _same(old: Shape, new: Shape, name: str) -> bool:
    return bool(old.keywords.get(name) == new.keywords.get(name))


def _of(shape: Shape, name: str) -> str:
    return str(shape.keywords[name]) if name in shape.keywords else "none"


def _listed(values: list[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _describe(shape: Shape) -> str:
    if shape.values is not None:
        return f"the value {_listed(shape.values)}"
    return f"the type {shape.type}" if shape.type else "another alternative"
