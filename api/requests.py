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
from litestar.exceptions import InternalServerException
from pydantic import BaseModel, ValidationError

from api.fields import read_id
from api.problem_types import NOT_FOUND, UNSUPPORTED_MEDIA_TYPE
from api.problems import Fault, ProblemError, invalid, malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from pydantic_core import ErrorDetails

AnyRequest = Request[Any, Any, Any]
AnyConnection = ASGIConnection[Any, Any, Any, Any]
Model = TypeVar("Model", bound=BaseModel)

JSON = ("application/json",)
MERGE_PATCH = ("application/merge-patch+json", "application/json")


MOST_KEYS = 10_000
"""In all objects of a body together; a full batch has half of it. Each may be a fault to be named."""


class _RefusedJsonError(ValueError):
    pass


def _objects(most_keys: float) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """Make a reader of the objects of one JSON text."""
    keys = 0

    def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal keys
        keys += len(pairs)
        if keys > most_keys:
            message = f"the body's objects have more than {most_keys:,} keys"
            raise _RefusedJsonError(message)
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                message = f"the key {key[:100]!r} stands twice in one object"
                raise _RefusedJsonError(message)
            found[key] = value
        return found

    return read_object


def _constant(name: str) -> None:
    message = f"{name} is not JSON"
    raise _RefusedJsonError(message)


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


def read_json(body: bytes, most_keys: float = MOST_KEYS, *, called: str = "the body") -> Any:
    """Read a JSON text (RFC 8259, UTF-8), its numbers exactly.

    Its objects may have ``most_keys`` keys together: a file that somebody imports has as many as it has, and
    is ``called`` what it is.

    Raises:
        ProblemError: 400 with the reason: not UTF-8, a byte order mark, not JSON, a key that stands twice,
            NaN or Infinity, nested too deep, too many keys, a number with too many digits, or a NUL or a
            lone surrogate.

    """
    try:
        text = body.decode()
        value = json.loads(
            text, parse_float=Decimal, object_pairs_hook=_objects(most_keys), parse_constant=_constant
        )
        if "\\u" in text and _has_unreadable_text(value):
            raise malformed(Fault(f"{called} holds a NUL or half of a surrogate pair"))
    except UnicodeDecodeError as error:
        raise malformed(Fault(f"{called} is not UTF-8, at byte {error.start}")) from None
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, at line {error.lineno} column {error.colno}" if body else "it is empty"
        raise malformed(Fault(f"{called} is not JSON: {reason}")) from None
    except _RefusedJsonError as error:
        raise malformed(Fault(str(error))) from None
    except RecursionError:
        raise malformed(Fault(f"{called} is nested too deep")) from None
    except (ValueError, ArithmeticError):
        # Python refuses integers of more than 4,300 digits and exponents of more than 18.
        raise malformed(Fault(f"{called} holds a number that is too long")) from None
    return value


async def read_body(request: AnyRequest, model: type[Model], media_types: tuple[str, ...] = JSON) -> Model:
    """Read a JSON body as a model.

    Raises:
        ProblemError: 415 for another media type, 400 for what can't be read, 422 with every fault of it.

    """
    if not _is_unencoded(request, media_types):
        raise ProblemError(
            UNSUPPORTED_MEDIA_TYPE,
            f"Send {' or '.join(media_types)}, unencoded.",
            headers={"Accept-Patch" if request.method == "PATCH" else "Accept": ", ".join(media_types)},
        )
    try:
        body = await request.body()
    except InternalServerException:
        # Litestar's name for the end of a connection, which chunks that are none bring about too.
        raise malformed(Fault("the body ended before it was complete, or its chunks are none")) from None
    return check(model, read_json(body))


def _is_unencoded(request: AnyRequest, media_types: tuple[str, ...]) -> bool:
    # Of two content types, who stands in front might have looked at the other one.
    given = request.headers.getall("content-type", [])
    codings = ",".join(request.headers.getall("content-encoding", [])).split(",")
    return (
        len(given) == 1
        and given[0].partition(";")[0].strip().lower() in media_types
        and all(coding.strip().lower() in ("", "identity") for coding in codings)
    )


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
    found = error.errors(include_url=False, include_input=False)
    return [Fault(_what_would_be_right(e), pointer=_pointer(e["loc"])) for e in found]


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


def check_host(connection: AnyConnection) -> None:
    """Refuse a request of HTTP/1.1 without exactly one Host (RFC 9112, section 3.2).

    Raises:
        ProblemError: 400, there is none, or more than one.

    """
    hosts = [value for name, value in connection.scope["headers"] if name == b"host"]
    # The server adds an empty one where there is none.
    if connection.scope.get("http_version") == "1.1" and (len(hosts) != 1 or not hosts[0].strip()):
        raise malformed(Fault("must be there, once", header="Host"))


def check_path(connection: AnyConnection) -> None:
    """Refuse a path that the router would take for another.

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


MOST_VALUES = 20
"""How often a parameter may stand that may stand more than once."""


def read_query(
    request: AnyRequest, known: Mapping[str, Callable[[str], Any]], repeatable: Collection[str] = ()
) -> dict[str, Any]:
    """Read the query's parameters, each by its reader; those that are not there are not in the result.

    One that is repeatable gives the list of its values, no two of which are the same.

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
        elif name in found and name not in repeatable:
            faults.append(Fault("stands twice; give it once", parameter=name))
        else:
            try:
                read = known[name](value)
            except ValueError as error:
                read = None
                faults.append(Fault(str(error), parameter=name))
            if name in repeatable:
                found.setdefault(name, []).append(read)
            else:
                found[name] = read
    faults += _faults_of_lists({name: found[name] for name in repeatable if name in found})
    if faults:
        raise malformed(*faults)
    return found


def _faults_of_lists(lists: Mapping[str, Sequence[Any]]) -> list[Fault]:
    faults = []
    for name, values in lists.items():
        read = [value for value in values if value is not None]
        if len(set(read)) < len(read):
            faults.append(Fault("gives a value twice; give each once", parameter=name))
        if len(values) > MOST_VALUES:
            faults.append(Fault(f"may stand {MOST_VALUES} times at most", parameter=name))
    return faults


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
    if not value.isascii() or not value.isdigit() or len(value) > 3 or not 1 <= int(value) <= 100:
        message = "must be a whole number from 1 to 100"
        raise ValueError(message)
    return int(value)
