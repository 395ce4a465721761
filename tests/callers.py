"""Callers that write orders of their own at random, and remember what was acknowledged."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.drivers import Api, http_client

EXPECTED = frozenset({200, 201, 204, 409})
"""The statuses of answers while nothing is broken."""


@dataclass
class Caller(threading.Thread):
    """A caller that writes its own orders, and remembers what was acknowledged."""

    url: str
    calendar: str
    seed: int
    stop: threading.Event
    pause: float
    answers: Counter[int | str] = field(default_factory=Counter)
    known: dict[str, int | None] = field(default_factory=dict)
    """Orders whose version is certain; None: deleted for certain."""

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Make requests until stopped."""
        rng = random.Random(self.seed)
        with http_client(self.url) as client:
            while not self.stop.is_set():
                self._request(client, rng)
                time.sleep(self.pause * rng.random() * 2)

    def _request(self, client: httpx.Client, rng: random.Random) -> None:
        method, path, body, orders = self._choose(rng)
        try:
            answer = client.request(method, path, json=body)
        except httpx.TransportError as error:
            self.answers[type(error.__cause__ or error).__name__] += 1
            self._forget(orders)  # it may have been committed
            return
        self.answers[answer.status_code] += 1
        if answer.status_code in {200, 201}:
            content = answer.json()
            for order in content.get("orders", [content]):
                self.known[order["id"]] = order["version"]
        elif answer.status_code == 204:
            self.known.update(dict.fromkeys(orders))
        elif answer.status_code >= 500:
            self._forget(orders)

    def _forget(self, orders: list[str]) -> None:
        for order in orders:
            self.known.pop(order, None)

    def _choose(self, rng: random.Random) -> tuple[str, str, dict[str, Any] | None, list[str]]:
        """Choose a request: its method, path and body, and the orders that it would change."""
        living = [order for order, version in self.known.items() if version is not None]
        kind = rng.choices(
            ["create", "create_many", "patch", "move_many", "cancel", "reinstate", "cancel_many", "delete"],
            [45, 5, 25, 7, 6, 5, 2, 5],
        )[0]
        if kind == "create" or not living:
            return "POST", "/orders", self._new_order(rng), []
        if kind == "create_many":
            orders = [self._new_order(rng) for _ in range(rng.randint(1, 3))]
            for other in orders[1:]:  # two with one reference are 422
                other.pop("reference", None)
            return "POST", "/orders/batch", {"orders": orders}, []
        order = rng.choice(living)
        some = rng.sample(living, min(len(living), rng.randint(1, 4)))
        match kind:
            case "patch":
                fee = {"totalfee": rng.randrange(100_000) / 100}
                change = fee | ({"datetime": self._time(rng)} if rng.random() < 0.3 else {})
                return "PATCH", f"/orders/{order}", change, [order]
            case "move_many":
                items = [{"id": one, "datetime": self._time(rng)} for one in some]
                return "PATCH", "/orders/batch", {"orders": items}, some
            case "cancel_many":
                return "POST", "/orders/batch/cancel", {"orders": [{"id": one} for one in some]}, some
            case "delete":
                return "DELETE", f"/orders/{order}", None, [order]
            case _:
                return "POST", f"/orders/{order}/{kind}", {"reason": "a test"}, [order]

    def _new_order(self, rng: random.Random) -> dict[str, Any]:
        services = rng.sample(["123", "456", "789"], rng.randint(1, 3))
        return {
            "datetime": self._time(rng),
            "calendar": self.calendar,
            "totalfee": rng.randrange(100_000) / 100,
            "services": [{"id": service} for service in services],
            **({"reference": f"{self.calendar} {rng.randrange(500)}"} if rng.random() < 0.3 else {}),
        }

    @staticmethod
    def _time(rng: random.Random) -> str:
        at = datetime(2030, 1, 1, tzinfo=UTC) + timedelta(minutes=90 * rng.randrange(4_000))
        return at.isoformat()

    def losses(self, api: Api) -> list[str]:
        """List acknowledged writes that are missing."""
        stored = {
            order["id"]: order["version"] for order in api.every_item(f"/orders?calendar={self.calendar}")
        }
        return [
            f"order {order} should be {'deleted' if version is None else f'at version {version}'}, "
            f"is {stored.get(order)}"
            for order, version in self.known.items()
            if stored.get(order) != version
        ]

    def refusals(self, allowed: frozenset[int | str]) -> list[str]:
        """List answers with a status that is not allowed."""
        return [f"{answer}: {count} times" for answer, count in self.answers.items() if answer not in allowed]
