"""HTTP for the command line: calls of the API, and the posts of ``oms listen``.

No other module of it imports an HTTP library. No redirect is followed, so a key goes to the server that was
named and nowhere else; proxies of the environment are ignored, as by the webhook client.
"""

from __future__ import annotations

import ssl
import time
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, urlencode, urlsplit

import httpcore
import msgspec

from oms.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
"""Longer than the API holds a request back (30 s) and than a statement may run."""

LONGEST_ANSWER = 65_536
"""Bytes of a receiver's answer that are read."""

LARGEST_BODY = 100_000_000
"""Bytes of an API's answer that are kept in memory; no page of the largest changes has as many."""

FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, UnicodeError)
"""What a connection may raise, a host that is no name too (UnicodeError). None says what the server has done.

Not OSError, which httpcore translates: what reads a response may raise it for reasons of its own."""

_PLACES = ("pointer", "parameter", "header")
"""Members of a fault that say where it is."""

Query: TypeAlias = "Sequence[tuple[str, str]]"


class UnreachableError(CommandError):
    """There was no response, or not all of it."""


class WrongServerError(CommandError):
    """What answered is not the API."""

    def __init__(self) -> None:
        super().__init__("the server did not answer as the API does: is --server the API's URL?")


class ProblemError(CommandError):
    """The API refused a request."""

    def __init__(self, status_code: int, problem: Mapping[str, Any]) -> None:
        super().__init__(_sentence_of(status_code, problem))
        self.status_code = status_code
        self.problem = problem

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed a moment later."""
        return self.status_code in {408, 429} or self.status_code >= 500  # 5xx


def _sentence_of(status_code: int, problem: Mapping[str, Any]) -> str:
    text = str(problem.get("detail") or problem.get("title") or "").strip()
    errors = problem.get("errors")
    faults = [
        f"{next((fault[where] for where in _PLACES if where in fault), 'it')}: {fault.get('detail')}"
        for fault in (errors if isinstance(errors, list) else ())  # a proxy's may be anything
        if isinstance(fault, dict) and str(fault.get("detail")) not in text  # a single one is all of it
    ]
    sentences = [f"the API answered {status_code}: {text}" if text else f"the API answered {status_code}"]
    sentences += faults
    if status_code == 401:
        sentences.append("Set OMS_KEY, or name a file with --key-file.")
    return " ".join(sentences)


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    url: str
    host: str

    @classmethod
    def read(cls, url: str, option: str) -> Target:
        """Read the URL of an option.

        Raises:
            CommandError: it is not an http or https URL, or has a user or a fragment.

        """
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host, parts = None, urlsplit("")
        wrong = not host or parts.scheme not in {"http", "https"} or parts.username or parts.fragment
        if wrong or not url.isascii() or any(character.isspace() for character in url):
            raise CommandError(
                f"{option} must be a URL such as http://127.0.0.1:8000, without a user or a fragment", 2
            )
        return cls(url, str(host))


def open_pool(target: Target) -> httpcore.ConnectionPool:
    """Return connections to a target; TLS certificates are verified, see ``SSL_CERT_FILE`` of OpenSSL."""
    # Reading the system's certificates takes longer than a request, so not for http.
    context = ssl.create_default_context() if target.url.startswith("https") else None
    return httpcore.ConnectionPool(ssl_context=context, keepalive_expiry=30)


def _pairs(headers: Mapping[str, str]) -> list[tuple[str | bytes, str | bytes]]:
    return [(name, value) for name, value in headers.items()]


def _sentence_of_failure(target: Target, error: Exception) -> str:
    reason = str(error) or type(error).__name__
    if isinstance(error, (httpcore.ConnectError, httpcore.ConnectTimeout, UnicodeError)):
        return f"{target.url} can't be reached ({reason}): does it run, and is its URL right?"
    return f"{target.url} broke off its response, or sent none ({reason})."


def _timeouts(read: float = READ_SECONDS) -> dict[str, dict[str, float]]:
    return {"timeout": {"connect": CONNECT_SECONDS, "read": read, "write": READ_SECONDS, "pool": 5.0}}


class Api:
    """The API of a deployment."""

    def __init__(self, target: Target, key: str | None) -> None:
        self.target = target
        self._base = target.url.partition("?")[0].rstrip("/")
        self._pool = open_pool(target)
        self._headers = {"User-Agent": "oms-command-line", "Accept-Encoding": "identity"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpcore.Response]:
        """Send a request; the body of a response below 300 is not read yet.

        Raises:
            UnreachableError: there is no response, or it ends too early: nothing says what the API has done.
            ProblemError: the API refused it.

        """
        url = f"{self._base}{path}" + (f"?{urlencode(query)}" if query else "")
        content = None if body is None else msgspec.json.encode(body)
        sent = {**self._headers, **(headers or {})}
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            with self._pool.stream(
                method, url, headers=_pairs(sent), content=content, extensions=_timeouts()
            ) as response:
                if response.status >= 300:  # not a success; no redirect is followed
                    raise ProblemError(response.status, _problem_of(_read(response)))
                yield response
        except FAILURES as error:
            raise UnreachableError(_sentence_of_failure(self.target, error)) from None

    def call(self, method: str, path: str, **request: Any) -> Any:
        """Send a request and return the response's JSON, an object. Raises as ``open`` does.

        A member that it lacks raises a ``WrongServerError`` when it is asked for.
        """
        return _decode(self.call_raw(method, path, **request))

    def call_raw(self, method: str, path: str, **request: Any) -> bytes:
        """Send a request and return the response's body. Raises as ``open`` does."""
        with self.open(method, path, **request) as response:
            return _read(response)

    def latest_position(self) -> int:
        """Return the position of the latest change. Raises as ``open`` does."""
        position = self.call("GET", "/order-changes/latest")["position"]
        if not isinstance(position, int):
            raise WrongServerError
        return position

    def items(self, path: str, query: Query = (), most: int | None = None) -> Iterator[Any]:
        """Return the items of a list, page by page, ``most`` of them. Raises as ``open`` does."""
        cursor: tuple[tuple[str, str], ...] = ()
        count = 0
        while True:
            page = self.call("GET", path, query=[*query, *cursor])
            if not isinstance(page["items"], list):
                raise WrongServerError
            for item in page["items"]:
                if count == most:
                    return
                count += 1
                yield item
            if page["next_cursor"] is None:
                return
            following = (("cursor", str(page["next_cursor"])),)
            if following == cursor:
                raise WrongServerError
            cursor = following


_JSON = msgspec.json.Decoder(float_hook=Decimal)
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding may raise: it is not JSON, not UTF-8, or nested deeper than any answer of the API."""


class _Object(dict[str, Any]):
    """An object of an answer."""

    def __missing__(self, name: str) -> Any:
        raise WrongServerError


def _decode(body: bytes) -> Any:
    try:
        content = _JSON.decode(body)
    except UNREADABLE:
        raise CommandError("the server did not answer with JSON: is --server the API's URL?") from None
    if not isinstance(content, dict):
        raise WrongServerError
    return _with_objects(content)


def _with_objects(value: Any) -> Any:
    if isinstance(value, dict):
        return _Object((name, _with_objects(member)) for name, member in value.items())
    return [_with_objects(member) for member in value] if isinstance(value, list) else value


def _read(response: httpcore.Response) -> bytes:
    """Read a body, unless it is longer than any of the API: the server decides how much it sends."""
    parts, size = [], 0
    for chunk in response.iter_stream():
        parts.append(chunk)
        size += len(chunk)
        if size > LARGEST_BODY:
            raise WrongServerError
    return b"".join(parts)


def _problem_of(body: bytes) -> Mapping[str, Any]:
    try:
        problem = msgspec.json.decode(body)
    except UNREADABLE:
        return {}
    return problem if isinstance(problem, dict) else {}


def check_media_type(response: httpcore.Response, wanted: str) -> None:
    """Check that a response is what was asked for, before any of it is kept.

    Raises:
        WrongServerError: it is something else, such as a page that a proxy makes.

    """
    sent = next((value for name, value in response.headers if name.lower() == b"content-type"), b"")
    if sent.partition(b";")[0].strip().lower() != wanted.encode():
        raise WrongServerError


def path_of(*parts: str) -> str:
    """Return a path of segments, each escaped."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


@dataclass(frozen=True)
class Posted:
    """The outcome of one post."""

    status: int | None
    """None: there was no response."""
    reason: str
    milliseconds: int

    @property
    def acknowledged(self) -> bool:
        """Whether the status says that it was received."""
        return self.status is not None and 200 <= self.status < 300  # a class of status codes


def post(
    pool: httpcore.ConnectionPool, target: Target, body: bytes, headers: Mapping[str, str], seconds: float
) -> Posted:
    """Post a body once. Nothing that the receiver does makes this raise."""
    began = time.monotonic()
    status, reason = None, ""
    try:
        with pool.stream(
            "POST", target.url, headers=_pairs(headers), content=body, extensions=_timeouts(seconds)
        ) as response:
            status = response.status
            reason = f"answered {status}"
            # Read, so that the connection can be used again, but no more than an answer has.
            read = 0
            for chunk in response.iter_stream():
                read += len(chunk)
                if read > LONGEST_ANSWER or time.monotonic() - began > seconds:
                    break
    except FAILURES as error:
        if status is None:  # otherwise it decides, even if the rest never came
            reason = str(error) or type(error).__name__
    return Posted(status, reason, round((time.monotonic() - began) * 1_000))
