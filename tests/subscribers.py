"""Subscribers of order changes, by the feed, the live stream or the Redis stream."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.drivers import Api

STREAM_KEY = "order-changes"

_decode = json.JSONDecoder().raw_decode


def items_of(page: str) -> list[str]:
    """Return the items of a page, each exactly as it was sent."""
    start, items = page.index("[") + 1, []
    while page[start] != "]":
        _, end = _decode(page, start)
        items.append(page[start:end])
        start = end + (page[end] == ",")
    return items


def position_of(notification: str) -> int:
    """Return a notification's position."""
    return int(json.loads(notification)["sequence"])


def positions_of(notifications: list[str]) -> list[int]:
    """Return the notifications' positions."""
    return [position_of(notification) for notification in notifications]


@dataclass
class Feed:
    """A reader of the feed, page by page."""

    api: Api
    following: str

    @classmethod
    def after(cls, api: Api, position: int = 0, **query: Any) -> Self:
        """Start after a position."""
        return cls(api, f"/order-changes?{urlencode({'after': position, **query})}")

    def read_page(self) -> list[str]:
        """Read the next page."""
        answer = self.api.client.get(self.following)
        assert answer.status_code == http.client.OK, answer.text
        self.following = answer.json()["next"]
        return items_of(answer.text)

    def all(self) -> list[str]:
        """Read until there is nothing more at present."""
        notifications: list[str] = []
        while page := self.read_page():
            notifications += page
        return notifications


@dataclass(frozen=True)
class Event:
    """An event of the live stream."""

    id: int
    type: str
    data: str


class EventStream:
    """A reader of the live stream, on a plain HTTP connection."""

    def __init__(
        self, url: str, after: int | None = None, *, last_event_id: int | None = None, timeout: float = 10
    ) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = str(last_event_id)
        query = "" if after is None else f"?after={after}"
        self._connection.request("GET", f"/order-changes/stream{query}", headers=headers)
        self.answer = self._connection.getresponse()
        self.comments = 0
        self.last_event_id = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect."""
        self.answer.close()
        self._connection.close()

    def lines(self) -> Iterator[str]:
        """Read line by line until the stream ends."""
        while line := self.answer.readline():
            yield line.decode().removesuffix("\n")

    def events(self) -> Iterator[Event]:
        """Read the events of changes until the stream ends, as the standard says."""
        fields: dict[str, str] = {}
        for line in self.lines():
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                assert name not in fields, "one data line for each event"
                fields[name] = value
            else:
                self.last_event_id = fields.get("id", self.last_event_id)
                assert not fields or "data" in fields, "no event without data"
                if fields.get("event", "position") != "position":
                    yield Event(int(self.last_event_id), fields["event"], fields["data"])
                fields = {}

    def take(self, count: int) -> list[Event]:
        """Read so many events."""
        events = self.events()
        return [next(events) for _ in range(count)]


def raw_stream(url: str, after: int, receive_buffer: int) -> socket.socket:
    """Open a stream and read nothing of it."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(10)
    connection.connect((host, int(port)))
    connection.sendall(f"GET /order-changes/stream?after={after} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return connection


class RedisReader:
    """A reader of the Redis stream."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url, decode_responses=True, socket_timeout=5)
        self.position = 0

    def entries(self) -> list[tuple[str, str]]:
        """Read the whole stream: ids and notifications."""
        entries: Any = self.client.xrange(STREAM_KEY)
        return [(name, fields["notification"]) for name, fields in entries]

    def read_page(self) -> list[str]:
        """Read the entries after those read before."""
        notifications = []
        streams: Any = self.client.xread({STREAM_KEY: f"{self.position}-0"}, count=1_000)
        for _, entries in streams:
            for name, fields in entries:
                self.position = int(name.partition("-")[0])
                notifications.append(fields["notification"])
        return notifications
