"""Read recordings of HTTP traffic (HAR 1.2) into exchanges. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


class NotARecordingError(Exception):
    """The file is not a HAR file, or one of its entries is invalid."""


@dataclass(frozen=True)
class Message:
    """A request or a response; header names in lower case."""

    headers: Mapping[str, str]
    media_type: str
    """In lower case and without parameters; empty if it was not declared."""
    text: str | None
    """The body; None if there is none, it is not text, or the recorder did not keep it."""


@dataclass(frozen=True)
class Exchange:
    """A request and its response."""

    number: int
    """The place of the entry in the recording, from 1."""
    method: str
    path: str
    query: str
    request: Message
    response: Message
    status: int
    """0 if there was no response."""

    def __str__(self) -> str:
        """Return the name of the exchange in a report."""
        return f"entry {self.number}  {self.method} {self.path} -> {self.status or 'no response'}"


def read_recording(text: str, server: str = "") -> list[Exchange]:
    """Read the exchanges of a recording.

    Args:
        text: the HAR file.
        server: read only exchanges with this address, and remove it from the paths; empty: read all.

    Raises:
        NotARecordingError: the text is not a HAR file.

    """
    try:
        entries = json.loads(text)["log"]["entries"]
    except (ValueError, KeyError, TypeError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        raise NotARecordingError("this is not a HAR file: it has no log.entries")
    exchanges = []
    for number, entry in enumerate(entries, start=1):
        try:
            if not server or (entry["request"]["url"] + "/").startswith(server.rstrip("/") + "/"):
                exchanges.append(_exchange(number, entry, server.rstrip("/")))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise NotARecordingError(
                f"entry {number} is not a HAR entry: {type(error).__name__} {error}"
            ) from None
    return exchanges


def _exchange(number: int, entry: Any, server: str) -> Exchange:
    request, response = entry["request"], entry["response"]
    address = urlsplit(request["url"][len(server) :])
    return Exchange(
        number,
        request["method"].upper(),
        address.path or "/",
        address.query,
        _message(request["headers"], request.get("postData") or {}),
        _message(response["headers"], response.get("content") or {}),
        int(response["status"]),
    )


def _message(pairs: Any, content: Any) -> Message:
    headers: dict[str, str] = {}
    for pair in pairs:
        name = pair["name"].lower()
        headers[name] = f"{headers[name]}, {pair['value']}" if name in headers else str(pair["value"])
    declared = (
        (headers.get("content-type") or content.get("mimeType") or "").partition(";")[0].strip().lower()
    )
    text = content.get("text")
    if text is not None and content.get("encoding") == "base64":
        # Invalid base64 makes the entry invalid. A body that is not text, such as an image, is not checked.
        with suppress(UnicodeDecodeError):
            return Message(headers, declared, base64.b64decode(text, validate=True).decode())
        text = None
    return Message(headers, declared, text)
