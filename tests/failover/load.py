"""What callers and subscribers see during failovers: acknowledged writes, and positions with their bytes."""

from __future__ import annotations

import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx

from tests.callers import Caller
from tests.drivers import http_client

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUEST_SECONDS = 25.0
"""A request that takes longer is given up by its caller."""


@dataclass
class Writes:
    """When writes were confirmed, by the API that confirmed them."""

    times: dict[str, list[float]] = field(default_factory=dict)

    def longest_outage(self, since: float, until: float) -> float:
        """Return for how long an API stored nothing, at most, between two moments (monotonic seconds)."""
        longest = 0.0
        for times in self.times.values():
            moments = [since, *(moment for moment in list(times) if since < moment < until), until]
            longest = max(longest, *(after - before for before, after in pairwise(moments)))
        return longest

    def confirmed_since(self, since: float) -> bool:
        """Return whether every API has confirmed a write since a moment."""
        return all(times and times[-1] > since for times in self.times.values())


class Writer(Caller):
    """A caller of one of several APIs, which repeats creates with their key until their outcome is known."""

    def __init__(
        self,
        urls: Sequence[str],
        calendar: str,
        seed: int,
        stop: threading.Event,
        *,
        pause: float,
        writes: Writes,
    ) -> None:
        super().__init__(urls[0], calendar, seed, stop, pause)
        self._urls = urls
        self._writes = writes
        self.repeated = 0
        """How many creates needed more than one request."""

    def run(self) -> None:
        """Make requests until stopped."""
        rng = random.Random(self.seed)
        clients = [http_client(url, REQUEST_SECONDS) for url in self._urls]
        try:
            while not self.stop.is_set():
                method, path, body, orders = self._choose(rng)
                if path == "/orders":
                    self._create(clients, body, str(uuid.UUID(int=rng.getrandbits(128))))
                else:
                    self._change(clients[0], method, path, body, orders)
                time.sleep(self.pause * rng.random() * 2)
        finally:
            for client in clients:
                client.close()

    def _create(self, clients: Sequence[httpx.Client], body: Any, key: str) -> None:
        attempt = 0
        while True:
            number = attempt % len(clients)
            answer = self._send(
                clients[number],
                self._urls[number],
                "POST",
                "/orders",
                json=body,
                headers={"Idempotency-Key": key},
            )
            if answer is not None and answer.status_code < 500:
                break
            if self.stop.is_set():
                return
            attempt += 1
            time.sleep(0.3)
        self.repeated += attempt > 0
        if answer.status_code == 201:
            order = answer.json()
            self.known[order["id"]] = order["version"]

    def _change(self, client: httpx.Client, method: str, path: str, body: Any, orders: list[str]) -> None:
        answer = self._send(client, self._urls[0], method, path, json=body)
        if answer is None or answer.status_code >= 500:
            self._forget(orders)  # it may have been committed
        elif answer.status_code in {200, 201}:
            content = answer.json()
            for order in content.get("orders", [content]):
                self.known[order["id"]] = order["version"]
        elif answer.status_code == 204:
            self.known.update(dict.fromkeys(orders))

    def _send(
        self, client: httpx.Client, url: str, method: str, path: str, **request: Any
    ) -> httpx.Response | None:
        try:
            answer = client.request(method, path, **request)
        except httpx.TransportError as error:
            self.answers[type(error.__cause__ or error).__name__] += 1
            return None
        self.answers[answer.status_code] += 1
        if answer.status_code in {200, 201, 204}:
            self._writes.times.setdefault(url, []).append(time.monotonic())
        return answer
