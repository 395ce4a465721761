"""Random load on a system that reads from a standby, to which anything may happen; and what must hold.

``python -m tests.standby_load --seconds 300 --seed 7`` runs it for longer than the tests do.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from stack.embedded_valkey import EmbeddedValkey
from tests.builders import later
from tests.drivers import Api
from tests.replicated_system import Replicated, replicated_system

if TYPE_CHECKING:
    from collections.abc import Callable

WRITERS = 2


@dataclass
class Report:
    """What was done, and everything that was not as promised."""

    seed: int
    own_writes_read: int = 0
    positions_seen: int = 0
    faults: int = 0
    exports_cut_off: int = 0
    on_standby: float = 0
    fallbacks: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


@dataclass
class _Load:
    replicated: Replicated
    until: float
    report: Report
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    def check(self, is_right: bool, what: str) -> None:  # noqa: FBT001 (the condition of an assertion)
        if not is_right:
            with self.lock:
                self.report.wrong.append(what)

    def get(self, api: Api, path: str, **headers: str) -> httpx.Response:
        answer = api.client.get(path, headers=headers)
        self.check(answer.status_code < 500, f"{path}: {answer.status_code} {answer.text[:300]}")
        return answer

    def count_read(self) -> None:
        with self.lock:
            self.report.own_writes_read += 1


def _write_and_read(load: _Load, number: int, rng: random.Random) -> None:
    """Write orders on a calendar of its own, and read each write at once."""
    calendar, hours = f"load-{load.report.seed}-{number}", 0
    orders: dict[str, dict[str, Any]] = {}
    with Api(int(load.replicated.api.url.rpartition(":")[2])) as api:
        while load.goes_on:
            kind = rng.choice(("create", "create", "patch", "delete")) if orders else "create"
            order_id = rng.choice(list(orders)) if orders else ""
            if kind == "create":
                hours += 3
                write = api.place_order(at=later(hours=hours), calendar=calendar)
            elif kind == "patch":
                fee = rng.randrange(10**6)
                write = api.client.patch(f"/orders/{order_id}", json={"totalfee": fee})
            else:
                write = api.client.delete(f"/orders/{order_id}")
            if not write.is_success:
                load.check(False, f"{kind}: {write.status_code} {write.text[:300]}")
                continue
            if kind == "delete":
                del orders[order_id]
            else:
                order = write.json()
                order_id = order["id"]
                orders[order_id] = order
            sent = write.headers["Read-After"]
            _read_own_write(load, api, calendar, orders, order_id, sent, rng)


def _read_own_write(  # noqa: PLR0917 (what was written, and by whom)
    load: _Load,
    api: Api,
    calendar: str,
    orders: dict[str, dict[str, Any]],
    order_id: str,
    sent: str,
    rng: random.Random,
) -> None:
    headers = {"Read-After": sent}
    read = load.get(api, f"/orders/{order_id}", **headers)
    expected = orders.get(order_id)
    seen = read.json() if read.is_success else None
    load.check(seen == expected, f"order {order_id} after {sent}: {seen} instead of {expected}")
    path = rng.choice((f"/orders?calendar={calendar}&limit=100", f"/orders/export?calendar={calendar}"))
    try:
        listed = load.get(api, path, **headers, Accept="application/json, application/x-ndjson")
    except httpx.RemoteProtocolError:
        # Its standby failed after the first bytes: the rest would be of another snapshot, so it is cut off.
        load.check("/export" in path, f"{path} was cut off")
        with load.lock:
            load.report.exports_cut_off += 1
        return
    if listed.is_success:
        page = listed.json() if "/export" not in path else None
        items = page["items"] if page else [json.loads(line) for line in listed.text.splitlines()]
        is_whole = page is None or page["next"] is None
        ids = {item["id"]: item["version"] for item in items}
        wanted = {name: order["version"] for name, order in orders.items()}
        load.check(not is_whole or ids == wanted, f"{path} after {sent}: {ids} instead of {wanted}")
    load.count_read()


def _follow_feed(load: _Load, rng: random.Random) -> None:
    with Api(int(load.replicated.api.url.rpartition(":")[2])) as api:
        position = load.replicated.last_position()
        while load.goes_on:
            page = load.get(api, f"/order-changes?after={position}&wait={rng.choice((0, 1))}")
            if not page.is_success:
                load.check(False, f"feed after {position}: {page.status_code} {page.text[:300]}")
                return
            positions = [int(item["sequence"]) for item in page.json()["items"]]
            expected = list(range(position + 1, position + 1 + len(positions)))
            load.check(positions == expected, f"feed after {position}: {positions}")
            following = page.json()["next_cursor"]
            load.check(following >= position, f"the cursor went back from {position} to {following}")
            position = following
            with load.lock:
                load.report.positions_seen += len(positions)


def _follow_stream(load: _Load, _rng: random.Random) -> None:
    with Api(int(load.replicated.api.url.rpartition(":")[2])) as api:
        position: int | None = None
        while load.goes_on:
            sent = {} if position is None else {"Last-Event-ID": str(position)}
            with api.client.stream("GET", "/order-changes/stream", headers=sent) as stream:
                load.check(stream.status_code == 200, f"stream from {position}: {stream.status_code}")
                reconnect_at = time.monotonic() + 1.5
                for line in stream.iter_lines():
                    if line.startswith("id: "):
                        seen = int(line.removeprefix("id: "))
                        is_next = position is None or seen in (position, position + 1)
                        load.check(is_next, f"the stream went from {position} to {seen}")
                        position = seen
                    if time.monotonic() > reconnect_at or not load.goes_on:
                        break


def _watch_positions(load: _Load, _rng: random.Random) -> None:
    """Ask for the newest position, and for what the summaries are exact for, again and again."""
    newest = summed = 0
    with Api(int(load.replicated.api.url.rpartition(":")[2])) as api:
        while load.goes_on:
            latest = load.get(api, "/order-changes/latest")
            report = load.get(api, "/fee-summaries")
            if latest.is_success and report.is_success:
                position, exact_for = latest.json()["position"], report.json()["as_of"]["position"]
                load.check(position >= newest, f"the newest position went back from {newest} to {position}")
                load.check(exact_for >= summed, f"the summaries went back from {summed} to {exact_for}")
                newest, summed = position, exact_for
            time.sleep(0.05)


def _watch_order(load: _Load, rng: random.Random) -> None:
    """Change an order now and then, and read it with the newest entity tag that was seen."""
    with Api(int(load.replicated.api.url.rpartition(":")[2])) as api:
        order = api.placed_order(at=later(hours=3), calendar=f"watched-{load.report.seed}")
        path, known, tag = f"/orders/{order['id']}", 1, ""
        while load.goes_on:
            if rng.random() < 0.2:
                change = api.client.patch(path, json={"totalfee": rng.randrange(10**6)})
                load.check(change.is_success, f"patch: {change.status_code}")
                known, tag = change.json()["version"], change.headers["ETag"]
            answer = load.get(api, path, **({"If-None-Match": tag} if tag else {}))
            if tag and answer.status_code != 304:
                version = answer.json().get("version")
                load.check(version == known, f"{path} went back from {known} to {version}")
            time.sleep(0.03)


def _break_standby(load: _Load, rng: random.Random) -> None:
    standby = load.replicated.standby
    while load.goes_on:
        fault = rng.choice(("pause", "freeze", "kill", "stop"))
        if fault == "pause":
            standby.pause_replay()
        elif fault == "freeze":
            standby.freeze()
        elif fault == "kill":
            standby.server.kill()
        else:
            standby.server.stop()
        with load.lock:
            load.report.faults += 1
        time.sleep(rng.uniform(0.1, 1.0))
        standby.thaw()
        standby.server.start()
        standby.resume_replay()
        time.sleep(rng.uniform(0.5, 2.0))


def run_load(replicated: Replicated, *, seconds: float, seed: int) -> Report:
    """Run the load, and return what was not as promised."""
    report = Report(seed)
    load = _Load(replicated, time.monotonic() + seconds, report)
    before = replicated.counted('read_requests_total{place="standby"}')
    works: list[Callable[[random.Random], None]] = [
        *(lambda rng, number=n: _write_and_read(load, number, rng) for n in range(WRITERS)),
        lambda rng: _follow_feed(load, rng),
        lambda rng: _follow_stream(load, rng),
        lambda rng: _watch_positions(load, rng),
        lambda rng: _watch_order(load, rng),
        lambda rng: _break_standby(load, rng),
    ]

    def run(work: Callable[[random.Random], None], number: int) -> None:
        try:
            work(random.Random(seed * 100 + number))
        except Exception as error:  # noqa: BLE001 - whatever a thread meets is a part of the report
            load.check(False, f"thread {number}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=(work, number)) for number, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report.on_standby = replicated.counted('read_requests_total{place="standby"}') - before
    for reason in ("behind", "busy", "conflict", "unavailable"):
        report.fallbacks[reason] = replicated.counted(f'read_fallbacks_total{{reason="{reason}"}}')
    return report


def main() -> int:
    """Run the load on a system of its own; the exit status is 0 if everything was as promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="oms-") as name,
        EmbeddedValkey(Path(name) / "valkey") as valkey,
        replicated_system(Path(name), f"{valkey.url.rsplit('/', 1)[0]}/0") as replicated,
    ):
        replicated.repair()
        report = run_load(replicated, seconds=given.seconds, seed=given.seed)
    print(report)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
