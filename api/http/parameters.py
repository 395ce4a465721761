"""Parameters in paths and queries: read strictly, each fault named.

Litestar takes the last of two equal parameters and replaces invalid UTF-8, so both are read here, from their
bytes. A route declares its query in its ``opt``, and ``check_query`` reads it before each route:

    @route("/services", http_method=READ, opt={"query": Query({"include_archived": read_boolean, **PAGING})})

A route that declares none takes no parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote_to_bytes

from api.http.csv_text import BYTE_ORDER_MARK
from api.http.fields import read_id
from api.http.media_types import JSON, produced_by
from api.http.problems import Fault, malformed
from api.http.request import method_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from litestar.handlers import BaseRouteHandler

    from api.http.request import AnyConnection, AnyRequest

T = TypeVar("T")
Readers = Mapping[str, Callable[[str], Any]]
"""Readers by parameter name: each returns the value, or raises ValueError with what is valid."""

MAX_VALUES = 20
"""How often a repeatable parameter may appear, unless its route says otherwise."""

_KEYED = re.compile(r"([a-z_]+)\[(.*)\]", re.DOTALL)


@dataclass(frozen=True)
class Query:
    """The query parameters of a route."""

    readers: Readers = field(default_factory=dict)
    repeatable: Collection[str] = ()
    """Those that may appear more than once; their values are a list without duplicates."""
    most: Mapping[str, int] = field(default_factory=dict)
    """How often those may appear that may do so more or less often than ``MAX_VALUES``."""
    keyed: Mapping[str, Callable[[str, str], Any]] = field(default_factory=dict)
    """Readers, by name, of those that have a key: ``metadata[source]=web``. Their values are a mapping.

    Each returns the value of a key. A key may appear once, and up to ``MAX_VALUES`` keys may.
    """

    @property
    def names(self) -> frozenset[str]:
        """All parameters that the route knows."""
        return frozenset((*self.readers, *self.keyed))


NO_QUERY = Query()


def check_query(connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """Read the query as the route declares it, for ``query_of``.

    Raises:
        ProblemError: 400 with every fault: unknown, repeated, not UTF-8, invalid.

    """
    if method_of(connection) == "OPTIONS":
        return
    query: Query = handler.opt.get("query", NO_QUERY)
    query_string = connection.scope["query_string"]
    sent: list[tuple[str, str]] = []
    values = _read_query(query_string, query, produced_by(handler), sent) if query_string else {}
    connection.scope["query"] = values  # type: ignore[typeddict-unknown-key]  # a key of our own
    connection.scope["parameters"] = sent  # type: ignore[typeddict-unknown-key]  # as above


def parameters_of(request: AnyConnection) -> Sequence[tuple[str, str]]:
    """Return the query's parameters as they were sent: names and decoded values."""
    parameters: list[tuple[str, str]] = request.scope["parameters"]  # type: ignore[typeddict-item]  # as above
    return parameters


def query_of(request: AnyConnection) -> dict[str, Any]:
    """Return the query's values by name; a parameter that was not sent is absent."""
    query: dict[str, Any] = request.scope["query"]  # type: ignore[typeddict-item]  # as above
    return query


def _read_query(
    query_string: bytes, query: Query, media_types: Sequence[str], sent: list[tuple[str, str]]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for pair in filter(None, query_string.split(b"&")):
        raw_name, _, raw_value = pair.partition(b"=")
        try:
            name, text = _decode(raw_name), _decode(raw_value)
        except UnicodeDecodeError:
            faults.append(Fault("the query is not UTF-8", parameter=ascii(raw_name.decode("latin-1"))[1:-1]))
            continue
        sent.append((name, text))
        try:
            _read_parameter(query, name, text, values, media_types)
        except ValueError as error:
            faults.append(Fault(str(error), parameter=name))
    faults += _faults_of_lists(query, values)
    if faults:
        raise malformed(*faults)
    return values


def _read_parameter(
    query: Query, name: str, text: str, values: dict[str, Any], media_types: Sequence[str]
) -> None:
    if name in PAGING and JSON not in media_types:
        raise ValueError(f"has no meaning with {' or '.join(media_types)}, which always has every match")
    if name not in query.readers:
        _read_keyed(query, name, text, values)
        return
    if name in values and name not in query.repeatable:
        raise ValueError("appears twice")
    value = None
    try:
        value = query.readers[name](text)
    finally:
        if name in query.repeatable:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value


def _read_keyed(query: Query, name: str, text: str, values: dict[str, Any]) -> None:
    base, key = match.groups() if (match := _KEYED.fullmatch(name)) else (name, None)
    if base not in query.keyed:
        known = ", ".join(sorted(query.names))
        raise ValueError(f"is unknown; {f'known parameters: {known}' if known else 'this path takes none'}")
    if key is None:
        raise ValueError(f"needs a key, as in {name}[source]=web")
    of_keys = values.setdefault(base, {})
    if key in of_keys:
        raise ValueError("appears twice")
    of_keys[key] = None
    of_keys[key] = query.keyed[base](key, text)


def _decode(encoded: bytes) -> str:
    return unquote_to_bytes(encoded.replace(b"+", b" ")).decode()


def _faults_of_lists(query: Query, values: Mapping[str, Any]) -> list[Fault]:
    faults = []
    for name in (name for name in query.repeatable if name in values):
        valid = [value for value in values[name] if value is not None]
        if len(set(valid)) < len(valid):
            faults.append(Fault("has the same value twice", parameter=name))
    for name in (name for name in (*query.repeatable, *query.keyed) if name in values):
        most = query.most.get(name, MAX_VALUES)
        if len(values[name]) > most:
            faults.append(Fault(f"may appear at most {most} times", parameter=name))
    return faults


def require(query: Mapping[str, Any], *names: str) -> None:
    """Check that parameters were sent.

    Raises:
        ProblemError: 400, naming each that is missing.

    """
    missing = [Fault("is required", parameter=name) for name in names if name not in query]
    if missing:
        raise malformed(*missing)


def path_id(request: AnyRequest, name: str) -> int:
    """Read an id from the path.

    Raises:
        ProblemError: 400, it is not an id.

    """
    return path_value(request, name, read_id)


def path_value(request: AnyRequest, name: str, read: Callable[[str], T]) -> T:
    """Read a segment of the path.

    Raises:
        ProblemError: 400, it is not UTF-8 (the server has silently replaced its bytes), or is invalid.

    """
    try:
        unquote_to_bytes(request.scope.get("raw_path", b"").partition(b"?")[0]).decode()
        return read(request.path_params[name])
    except UnicodeDecodeError:
        raise malformed(Fault("the path is not UTF-8", parameter=name)) from None
    except ValueError as error:
        raise malformed(Fault(str(error), parameter=name)) from None


def read_boolean(value: str) -> bool:
    """Read a boolean parameter."""
    if value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value == "true"


def read_bom(value: str) -> bytes:
    """Read whether a file in CSV begins with a byte order mark, and return what it begins with."""
    if value not in ("yes", "no"):
        raise ValueError("must be yes or no")
    return BYTE_ORDER_MARK if value == "yes" else b""


def read_limit(value: str) -> int:
    """Read how many items a page may have: 1 to 100."""
    if not value.isascii() or not value.isdigit() or len(value) > 3 or not 1 <= int(value) <= 100:
        raise ValueError("must be a whole number from 1 to 100")
    return int(value)


def read_seconds(longest: int) -> Callable[[str], int]:
    """Return a reader for how many seconds to wait, 0 to ``longest``."""

    def read(value: str) -> int:
        if value not in map(str, range(longest + 1)):
            raise ValueError(f"must be a whole number of seconds from 0 to {longest}")
        return int(value)

    return read


PAGING: Readers = {"limit": read_limit, "cursor": str}
