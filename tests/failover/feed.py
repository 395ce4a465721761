"""What readers of the feed have seen: each position with its bytes, through whichever API."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

import httpx

from tests.drivers import http_client

if TYPE_CHECKING:
    from collections.abc import Iterator

OVERLAP = 50
"""How many positions before the last that it knows a reader reads again each time."""

_ITEMS = '{"items":['
_DECODER = json.JSONDecoder()


def texts_of(page: str) -> Iterator[tuple[int, str]]:
    """Return the position and the text of each change of a page, as it was sent."""
    at = len(_ITEMS)
    while page[at] == "{":
        change, end = _DECODER.raw_decode(page, at)
        yield int(change["sequence"]), page[at:end]
        at = end + 1


class Seen:
    """Each position that a reader has seen, with the text that it had first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: dict[int, str] = {}
        self.faults: list[str] = []
        """Positions that had other bytes later."""

    def __len__(self) -> int:
        return len(self._changes)

    def add(self, page: str, reader: str) -> int:
        """Compare a page with what was seen before; return its last position, or 0."""
        last = 0
        with self._lock:
            for position, text in texts_of(page):
                before = self._changes.setdefault(position, text)
                if before != text:
                    self.faults.append(f"{reader}: position {position} was {before}, and is {text}")
                last = position
        return last

    def retracted(self, last: int) -> list[str]:
        """List positions that were seen, and are not in a log that ends at ``last``."""
        with self._lock:
            return [
                f"position {position} was seen: {text}"
                for position, text in self._changes.items()
                if position > last
            ]


class Reader(threading.Thread):
    """Follows the feed through one API, and reads the last positions again each time."""

    def __init__(self, url: str, seen: Seen, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._seen = seen
        self._stop_reading = stop
        self.answers: dict[int | str, int] = {}

    def run(self) -> None:
        """Read until stopped."""
        last = 0
        with http_client(self._url, 20) as client:
            while not self._stop_reading.is_set():
                try:
                    answer = client.get(
                        "/order-changes", params={"after": max(0, last - OVERLAP), "limit": 2 * OVERLAP}
                    )
                except httpx.TransportError as error:
                    kind: int | str = type(error.__cause__ or error).__name__
                else:
                    kind = answer.status_code
                    if kind == 200:
                        last = max(last, self._seen.add(answer.text, self._url))
                self.answers[kind] = self.answers.get(kind, 0) + 1
                time.sleep(0.1)


def read_all(url: str, seen: Seen) -> int:
    """Read the whole feed and compare it with what was seen; return its last position."""
    last = 0
    with http_client(url) as client:
        while True:
            answer = client.get("/order-changes", params={"after": last, "limit": 100}).raise_for_status()
            end = seen.add(answer.text, f"{url} at the end")
            if not end:
                return last
            last = end
