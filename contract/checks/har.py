"""Check recorded traffic against the contract, and list every deviation.

    python -m contract.checks.har FILE.har [--server http://host:port/prefix] [--allow-refused]

A recording is a HAR 1.2 file, as browsers, proxies, test clients and schemathesis write it. Both sides are
checked: requests (path, method, parameters, body) and responses (status, headers, media type, body). The exit
status is 0 if there is no deviation, 1 if there is one, 2 if the file is not a recording or has no request to
this API.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from contract.checks.document import METHODS, ContractError, Place, load, media_types, parameters
from contract.checks.recording import Exchange, Message, NotARecordingError, read_recording
from contract.checks.validation import Schemas, read_json, read_text
from shared.control_characters import escape_control_characters

OUTSIDE_OPERATIONS = "x-responses-outside-operations"
"""The member of the contract with the responses to requests that match no operation."""


DOCUMENTATION_FILE = re.compile(r"/docs/[^/]+|/favicon\.ico")
"""What a browser loads for ``/docs``: the viewer's own files, which are no operations."""


@dataclass(frozen=True)
class Deviation:
    """A difference between a recording and the contract."""

    exchange: Exchange
    side: str
    """``request`` or ``response``."""
    text: str

    def __str__(self) -> str:
        """Return a line for the report."""
        return f"{self.exchange}  {self.side}: {self.text}"


class TrafficCheck:
    """Checks exchanges against a contract."""

    def __init__(self, contract: Place, *, allow_refused: bool = False) -> None:
        self._contract = contract
        self._schemas = Schemas(contract)
        self._allow_refused = allow_refused
        # Paths without parameters first: /orders/batch is not an order.
        self._paths = {
            re.compile(re.sub(r"\\\{([^}]+)\\\}", r"(?P<\1>[^/]+)", re.escape(path))): path
            for path in sorted(contract.members("paths"), key=lambda path: path.count("{"))
        }

    def deviations(self, exchange: Exchange) -> list[Deviation]:
        """List the deviations of an exchange, of the request and of the response."""
        deviations = []
        refused = 400 <= exchange.status < 500  # client errors
        if not (refused and self._allow_refused):
            deviations = [Deviation(exchange, "request", text) for text in self._in_request(exchange)]
        if exchange.status:
            deviations += [Deviation(exchange, "response", text) for text in self._in_response(exchange)]
        return deviations

    def match(self, exchange: Exchange) -> tuple[str | None, Place | None, dict[str, str]]:
        """Return the path and the operation that were called, and the values of the path's parameters."""
        for pattern, path in self._paths.items():
            match = pattern.fullmatch(exchange.path)
            if match:
                item = self._contract.members("paths")[path]
                operation = item.child(exchange.method.lower())
                if operation is None and exchange.method == "HEAD":
                    operation = item.child("get")
                return path, operation, match.groupdict()
        return None, None, {}

    def _in_request(self, exchange: Exchange) -> Iterator[str]:
        path, operation, in_path = self.match(exchange)
        if path is None:
            yield "the contract has no such path"
            return
        if operation is None:
            item = self._contract.members("paths")[path]
            has = ", ".join(method.upper() for method in METHODS if item.child(method))
            if exchange.method != "OPTIONS":
                yield f"{path} does not have the method {exchange.method}; it has {has}"
            return
        known = parameters(self._contract, path, operation)
        given = {("path", name): [unquote(value)] for name, value in in_path.items()}
        in_query, objects, faults = _read_query(exchange.query, known)
        yield from faults
        given |= {("query", name): values for name, values in in_query.items()}
        given |= {("header", name): [value] for name, value in exchange.request.headers.items()}
        for (where, name), parameter in known.items():
            if where == "query" and name in objects:
                yield from self._in_object(f"the query parameter {name}", parameter, objects[name])
            elif (where, name) in given:
                texts = given[where, name]
                yield from self._in_texts(f"the {where} parameter {parameter.get('name')}", parameter, texts)
            elif parameter.get("required"):
                yield f"the {where} parameter {name} is missing"
        yield from self._in_body(operation.child("requestBody"), exchange.request)

    def _in_body(self, expected: Place | None, message: Message) -> Iterator[str]:
        if expected is None:
            if message.text:
                yield "there is a body, but this operation takes none"
        elif message.media_type or message.text:
            yield from self._in_content(expected, message)
        elif expected.get("required"):
            yield "the body is missing"

    def _in_response(self, exchange: Exchange) -> Iterator[str]:
        path, operation, _ = self.match(exchange)
        if path and operation is None and (exchange.method, exchange.status) == ("OPTIONS", 204):
            return
        responses = (
            operation.members("responses") if operation else self._contract.members(OUTSIDE_OPERATIONS)
        )
        expected = responses.get(str(exchange.status))
        if expected is None:
            yield f"the status {exchange.status} is not in the contract; {', '.join(responses)} are"
            return
        for name, header in expected.members("headers").items():
            value = exchange.response.headers.get(name.lower())
            if value is not None:
                yield from self._in_text(f"the header {name}", header, value)
            elif header.get("required"):
                yield f"the header {name} is missing"
        if expected.child("content") is not None and exchange.method != "HEAD":
            yield from self._in_content(expected, exchange.response)
        elif exchange.response.text:
            yield "there is a body where the contract has none"

    def _in_texts(self, what: str, parameter: Place, texts: list[str]) -> Iterator[str]:
        schema = parameter.child("schema")
        items = schema.child("items") if schema is not None and _is_list(parameter) else None
        if schema is None or items is None:
            yield from self._in_text(what, parameter, texts[-1])
            return
        # A list is sent by repeating its parameter (style form, exploded).
        for fault in self._schemas.faults(schema, [read_text(items, text) for text in texts]):
            yield f"{what}: {fault.removeprefix('# ')}"

    def _in_object(self, what: str, parameter: Place, texts: dict[str, str]) -> Iterator[str]:
        schema = parameter.child("schema")
        if schema is not None:
            for fault in self._schemas.faults(schema, texts):
                yield f"{what}: {fault.removeprefix('# ')}"

    def _in_text(self, what: str, parameter: Place, text: str) -> Iterator[str]:
        schema = parameter.child("schema")
        if schema is not None:
            for fault in self._schemas.faults(schema, read_text(schema, text)):
                yield f"{what}: {fault.removeprefix('# ')}"

    def _in_content(self, expected: Place, message: Message) -> Iterator[str]:
        content = media_types(expected)
        if message.media_type not in content:
            given = message.media_type or "(none)"
            yield f"the media type {given} is not in the contract; {', '.join(content)} are"
            return
        schema = content[message.media_type].child("schema")
        is_json = re.fullmatch(r"application/([^;]*\+)?json", message.media_type)
        if schema is None or message.text is None or not is_json:
            return
        try:
            value = read_json(message.text)
        except (ValueError, RecursionError) as error:
            yield f"the body is not JSON: {error}"
            return
        yield from (f"the body: {fault}" for fault in self._schemas.faults(schema, value))


def _read_query(
    query: str, known: Mapping[tuple[str, str], Place]
) -> tuple[dict[str, list[str]], dict[str, dict[str, str]], list[str]]:
    """Return the values of parameters, those of objects' members, and what is wrong with their names."""
    values: dict[str, list[str]] = {}
    objects: dict[str, dict[str, str]] = {}
    faults = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        match = re.fullmatch(r"(\w+)\[(.*)\]", name, re.DOTALL)
        parameter = known.get(("query", match[1] if match else name))
        is_object = parameter is not None and parameter.get("style") == "deepObject"
        if parameter is None or is_object != (match is not None):
            faults.append(f"the query parameter {name} is unknown")
        elif match is not None:
            members = objects.setdefault(match[1], {})
            if match[2] in members:
                faults.append(f"the query parameter {name} appears twice")
            members[match[2]] = value
        else:
            if name in values and not _is_list(parameter):
                faults.append(f"the query parameter {name} appears twice")
            values.setdefault(name, []).append(value)
    return values, objects, faults


def _is_list(parameter: Place) -> bool:
    schema = parameter.child("schema")
    return schema is not None and schema.get("type") == "array"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m contract.checks.har", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("file", type=Path, help="the recording")
    parser.add_argument(
        "--server", default="", help="check only requests to this address; the rest of the URL is the path"
    )
    parser.add_argument(
        "--allow-refused",
        action="store_true",
        help="do not check requests that were answered 4xx: they may be wrong on purpose",
    )
    options = parser.parse_args(arguments)
    try:
        recorded = read_recording(options.file.read_text(encoding="utf-8-sig"), options.server)
        exchanges = [one for one in recorded if not DOCUMENTATION_FILE.fullmatch(one.path)]
        check = TrafficCheck(load(), allow_refused=options.allow_refused)
        deviations = [deviation for exchange in exchanges for deviation in check.deviations(exchange)]
    except (NotARecordingError, ContractError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"har: {escape_control_characters(f'{options.file}: {error}')}\n")
        return 2
    for deviation in deviations:
        sys.stdout.write(f"{escape_control_characters(str(deviation))}\n")
    sys.stdout.write(f"{len(exchanges)} exchange(s) checked, {len(deviations)} deviation(s).\n")
    if not exchanges:
        sys.stderr.write("har: no request was checked; is --server the address that was recorded?\n")
        return 2
    return 1 if deviations else 0


if __name__ == "__main__":
    sys.exit(main())
