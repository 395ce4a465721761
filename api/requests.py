"""Reading requests strictly: what can't be read is 400, what can be read and is not acceptable is 422.

Litestar decodes leniently (``"1"`` passes for a number, the last of two equal keys or parameters wins,
invalid UTF-8 is replaced or answered 500), so bodies, queries and paths are read here, from their bytes.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote_to_bytes

from litestar import Request
from litestar.connection import ASGIConnection
from pydantic import BaseModel, ValidationError

from api.fields import read_id
from api.problem_types import NOT_FOUND, UNSUPPORTED_MEDIA_TYPE
from api.problems import Fault, ProblemError, invalid, malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic_core import ErrorDetails

AnyRequest = Request[Any, Any, Any]
AnyConnection = ASGIConnection[Any, Any, Any, Any]
Model = TypeVar("Model", bound=BaseModel)

JSON = ("application/json",)
MERGE_PATCH = ("application/merge-patch+json", "application/json")


class _DuplicateKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            message = f"the key {key[:100]!r} stands twice in one object"
            raise _DuplicateKeyError(message)
        found[key] = value
    return found


def _constant(name: str) -> None:
    message = f"{name} is not JSON"
    raise _DuplicateKeyError(message)


def _has_unreadable_text(value: Any) -> bool:
    match value:
        case str():
            return "\0" in value or any("\ud800" <= c <= "\udfff" for c in value)
        case list():
            return any(map(_has_unreadable_text, value))
        case dict():
            return any(map(_has_unreadable_text, value)) or any(map(_has_unreadable_text, value.values()))
        case _:
            return False


def read_json(body: bytes) -> Any:
    """Read a JSON text (RFC 8259, UTF-8), its numbers exactly.

    Raises:
        ProblemError: 400 with the reason: not UTF-8, a byte order mark, not JSON, a key that stands twice,
            NaN or Infinity, nested too deep, a number with too many digits, or a NUL or a lone surrogate.

    """
    try:
        text = body.decode()
        value = json.loads(text, parse_float=Decimal, object_pairs_hook=_object, parse_constant=_constant)
        if "\\u" in text and _has_unreadable_text(value):
            raise malformed(Fault("the body holds a NUL or half of a surrogate pair"))
    except UnicodeDecodeError as error:
        raise malformed(Fault(f"the body is not UTF-8, at byte {error.start}")) from None
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, at line {error.lineno} column {error.colno}" if body else "it is empty"
        raise malformed(Fault(f"the body is not JSON: {reason}")) from None
    except _DuplicateKeyError as error:
        raise malformed(Fault(str(error))) from None
    except RecursionError:
        raise malformed(Fault("the body is nested too deep")) from None
    except (ValueError, ArithmeticError):
        # Python refuses integers of more than 4,300 digits and exponents of more than 18.
        raise malformed(Fault("the body holds a number that is too long")) from None
    return value


async def read_body(request: AnyRequest, model: type[Model], media_types: tuple[str, ...] = JSON) -> Model:
    """Read a JSON body as a model.

    Raises:
        ProblemError: 415 for another media type, 400 for what can't be read, 422 with every fault of it.

    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in media_types or request.headers.get("content-encoding", "identity") != "identity":
        raise ProblemError(
            UNSUPPORTED_MEDIA_TYPE,
            f"Send {' or '.join(media_types)}, unencoded.",
            headers={"Accept-Patch" if request.method == "PATCH" else "Accept": ", ".join(media_types)},
        )
    return check(model, read_json(await request.body()))


def check(model: type[Model], value: object) -> Model:
    """Check a JSON value against a model.

    Raises:
        ProblemError: 422 with every fault.

    """
    try:
        return model.model_validate(value, strict=True)
    except ValidationError as error:
        raise invalid(*faults_of(error)) from None


def faults_of(error: ValidationError) -> list[Fault]:
    """Name each fault that a model found, with a JSON Pointer (RFC 6901) into what it was given."""
    return [Fault(_what_would_be_right(e), pointer=_pointer(e["loc"])) for e in error.errors()]


def _pointer(location: tuple[int | str, ...]) -> str:
    # As a URI fragment (section 6): what can't stand in one, a line feed in a key for instance, is encoded.
    tokens = (str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "#" + "".join("/" + quote(token, safe="!$&'()*+,;=:@?") for token in tokens)


def _what_would_be_right(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a field that a caller sets here; leave it out"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be a JSON object"
        case "list_type":
            return "must be a JSON array"
        case "too_short":
            return f"must have at least {context['min_length']} element"
        case "too_long":
            return f"must have at most {context['max_length']} elements"
        case _:
            return error["msg"]


def method_of(connection: AnyConnection) -> str:
    """Give a request's method."""
    return str(connection.scope.get("method", "GET"))


def check_path(connection: AnyConnection, _: object) -> None:
    """Refuse a path that the router would take for another; a guard for all routes.

    Litestar drops slashes that stand twice or at the end, and takes ``%2F`` for one, which RFC 3986 (2.2)
    forbids: ``/orders%2F5`` is one segment. A path that proxies and logs read differently from the service
    is how rules that are bound to paths are passed by.

    Raises:
        ProblemError: 404, the path as it was sent is not the route's.

    """
    path = connection.scope.get("raw_path", b"").partition(b"?")[0].lower()
    if b"%2f" in path or b"//" in path or path.endswith(b"/"):
        raise ProblemError(NOT_FOUND, "No route has this path.")


def path_id(request: AnyRequest, name: str) -> int:
    """Read an id from the path.

    Raises:
        ProblemError: 400, it is none.

    """
    return path_value(request, name, read_id)


T = TypeVar("T")


def path_value(request: AnyRequest, name: str, read: Callable[[str], T]) -> T:
    """Read a segment of the path.

    Raises:
        ProblemError: 400, it is not UTF-8 (the server has replaced its bytes silently), or can't be read.

    """
    try:
        unquote_to_bytes(request.scope.get("raw_path", b"").partition(b"?")[0]).decode()
        return read(request.path_params[name])
    except UnicodeDecodeError:
        raise malformed(Fault("the path is not UTF-8", parameter=name)) from None
    except ValueError as error:
        raise malformed(Fault(str(error), parameter=name)) from None


def read_query(request: AnyRequest, known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Read the query's parameters, each by its reader; those that are not there are not in the result.

    Raises:
        ProblemError: 400 with every fault: unknown, given twice, not UTF-8, not acceptable.

    """
    found: dict[str, Any] = {}
    faults: list[Fault] = []
    for pair in filter(None, request.scope["query_string"].split(b"&")):
        raw_name, _, raw_value = pair.partition(b"=")
        try:
            name = unquote_to_bytes(raw_name.replace(b"+", b" ")).decode()
            value = unquote_to_bytes(raw_value.replace(b"+", b" ")).decode()
        except UnicodeDecodeError:
            faults.append(Fault("the query is not UTF-8", parameter=ascii(raw_name.decode("latin-1"))[1:-1]))
            continue
        if name not in known:
            faults.append(
                Fault(f"is unknown; known are {', '.join(sorted(known)) or 'none'}", parameter=name)
            )
        elif name in found:
            faults.append(Fault("stands twice; give it once", parameter=name))
        else:
            try:
                found[name] = known[name](value)
            except ValueError as error:
                found[name] = None
                faults.append(Fault(str(error), parameter=name))
    if faults:
        raise malformed(*faults)
    return found


def require(query: Mapping[str, Any], *names: str) -> None:
    """See that parameters are there.

    Raises:
        ProblemError: 400, naming each that is missing.

    """
    missing = [Fault("is required", parameter=name) for name in names if name not in query]
    if missing:
        raise malformed(*missing)


def read_yes_no(value: str) -> bool:
    """Read a boolean parameter."""
    if value not in ("true", "false"):
        message = "must be true or false"
        raise ValueError(message)
    return value == "true"


def read_limit(value: str) -> int:
    """Read how many items a page may have: 1 to 100."""
    if not value.isascii() or not value.isdigit() or len(value) > 3 or not 1 <= int(value) <= 100:  # noqa: PLR2004
        message = "must be a whole number from 1 to 100"
        raise ValueError(message)
    return int(value)
