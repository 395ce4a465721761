"""Check values against schemas of the contract, with exact numbers. Pure.

Differences from plain ``jsonschema``: the format ``decimal`` means an amount, with at most two decimals by
value, ``$`` in a pattern is the end as in ECMA 262 (Python allows a line feed after it), numbers may be
``Decimal``, and dates must exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jsonschema
from jsonschema.validators import extend
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from contract.checks.document import Place

URI = "urn:order-management:contract"


def _is_integer(_checker: object, value: object) -> bool:
    if isinstance(value, Decimal):
        return value.is_finite() and value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_checker: object, value: object) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _pattern(
    _validator: object, pattern: str, value: object, _schema: object
) -> Iterator[jsonschema.ValidationError]:
    if isinstance(value, str) and not re.search(re.sub(r"(?<!\\)\$$", r"\\Z", pattern), value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern}")


_FORMATS = jsonschema.FormatChecker(formats=())


@_FORMATS.checks("date-time", raises=ValueError)
def _is_date_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@_FORMATS.checks("date", raises=ValueError)
def _is_date(value: object) -> bool:
    return not isinstance(value, str) or bool(date.fromisoformat(value))


@_FORMATS.checks("decimal")
def _is_amount(value: object) -> bool:
    return not _is_number(None, value) or Fraction(str(value)) * 100 % 1 == 0


@_FORMATS.checks("uri-reference")
def _is_uri_reference(value: object) -> bool:
    return not isinstance(value, str) or bool(
        re.fullmatch(r"([!#$&-;=?-Z_a-z~\[\]]|%[0-9A-Fa-f]{2})*", value)
    )


_Validator = extend(  # type: ignore[no-untyped-call]  # jsonschema leaves it untyped
    jsonschema.Draft202012Validator,
    validators={"pattern": _pattern},
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    ),
)


class Schemas:
    """Checks values against the schemas of one contract."""

    def __init__(self, contract: Place) -> None:
        self._registry: Registry[Any] = Registry().with_resource(
            URI, DRAFT202012.create_resource(dict(contract.root))
        )

    def faults(self, schema: Place, value: object) -> list[str]:
        """Return how a JSON value differs from its schema; each text begins with a pointer into the value."""
        validator = _Validator(
            {"$ref": URI + schema.pointer}, registry=self._registry, format_checker=_FORMATS
        )
        return sorted(_describe(_most_specific(error)) for error in _causes(validator.iter_errors(value)))


def _causes(errors: Iterable[jsonschema.ValidationError]) -> list[jsonschema.ValidationError]:
    """Drop secondary errors: if ``allOf`` fails, its members are reported as unevaluated too."""
    all_errors = list(errors)
    others = [error for error in all_errors if error.validator != "unevaluatedProperties"]
    return others or all_errors


def _most_specific(error: jsonschema.ValidationError) -> jsonschema.ValidationError:
    """If all alternatives failed, return the first error of the closest one.

    An alternative whose constants match (a problem of the right type) is closer than any other.
    """
    while error.validator in {"oneOf", "anyOf"} and error.context:
        alternatives: dict[Any, list[jsonschema.ValidationError]] = {}
        for fault in error.context:
            alternatives.setdefault(fault.relative_schema_path[0], []).append(fault)
        nearest = min(
            alternatives.values(),
            key=lambda faults: (any(fault.validator in {"const", "type"} for fault in faults), len(faults)),
        )
        error = _causes(nearest)[0]
    return error


def _describe(error: jsonschema.ValidationError) -> str:
    pointer = "#" + "".join(f"/{part}" for part in error.absolute_path)
    message = re.sub(r"Decimal\('([^']*)'\)", r"\1", error.message)
    return f"{pointer} {message if len(message) < 300 else message[:300] + ' …'}"


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice in one object")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _exact(literal: str) -> Decimal:
    number = Decimal(literal)
    if not -400 <= number.adjusted() <= 400:  # beyond any double; bounds the cost of arithmetic
        raise ValueError(f"the number {literal[:40]} is out of range")
    return number


def read_json(text: str) -> Any:
    """Parse a JSON text, with fractions as ``Decimal``.

    Raises:
        ValueError: it is not JSON, a number is out of range, or a member appears twice in one object.

    """
    return json.loads(
        text, parse_float=_exact, parse_constant=_refuse_constant, object_pairs_hook=_unique_members
    )


def read_text(schema: Place, text: str) -> object:
    """Convert a parameter or a header to the type of its schema; return the text itself if that fails."""
    while "$ref" in schema.value:
        schema = schema.target(schema.value["$ref"]).followed()
    kind = schema.get("type")
    if kind == "integer" and re.fullmatch(r"-?(0|[1-9][0-9]{0,30})", text):
        return int(text)
    if kind == "number" and re.fullmatch(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?", text):
        return Decimal(text)
    if kind == "boolean" and text in {"true", "false"}:
        return text == "true"
    return text
