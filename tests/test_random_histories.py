"""Random histories of commands, over HTTP, against a plain model of the rule and of the summaries."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from copy import deepcopy
from datetime import date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from api.http.attribution import Attribution
from api.orders.errors import ImportRefusedError
from api.orders.imports.commands import import_orders
from api.orders.imports.faults import FaultReport
from api.orders.imports.files import ImportedFile
from api.orders.imports.rows import check_orders
from tests.builders import NOON, tag
from tests.calendar_commands import (
    DeleteCalendar,
    PatchCalendar,
    PutCalendar,
    check_calendars,
    do_calendar_command,
)
from tests.filters_of_histories import check_filters
from tests.history_commands import (
    Archive,
    ChangeStatus,
    Command,
    Create,
    Delete,
    DryRun,
    EndMany,
    Import,
    ImportedOrder,
    Patch,
    PatchMany,
    Put,
    Rename,
    Swap,
    commands,
    written,
)
from tests.model import Answer, Model, ModelOrder
from tests.random_rounds import ROUNDS
from tests.steps import apply_every_change

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api, Database

Run = Callable[[Coroutine[Any, Any, Any]], Any]

HISTORIES = 25 * ROUNDS

NAMES = {123: "Inspection", 456: "Analysis", 789: "Testing"}
FIRST_ID_OF_THE_SERVER = 10**15
REASONS = (None, "Grün, 50 %", "A customer asked")
"""Why commands are sent, in turn."""


def _free_order(hours: float) -> Create:
    return Create(None, NOON + timedelta(hours=hours), Decimal(1), (123,), "default")


class History:
    """Runs commands on the service and on the model, and compares every answer."""

    def __init__(self, api: Api, run: Run) -> None:
        self.api = api
        self.run = run
        self.model = Model(dict(NAMES))
        self.is_dry_run = False
        self.imports = 0
        self.commands = 0

    @property
    def reason(self) -> str | None:
        """Why the current command is sent."""
        return REASONS[self.commands % len(REASONS)]

    def order_id(self, number: int) -> int:
        """Return the id that a command refers to."""
        ids = sorted(self.model.orders)
        return ids[number % len(ids)] if ids and number else 999

    def send(self, method: str, path: str, body: str | None = None) -> httpx.Response:
        """Make a request."""
        return self.api.client.request(
            method,
            f"{path}?dry_run=true" if self.is_dry_run else path,
            content=body,
            headers={
                **({"Content-Type": "application/json"} if body else {}),
                **({"Change-Reason": quote(self.reason)} if self.reason else {}),
            },
        )

    def check(self, command: Command, answer: httpx.Response, expected: Answer) -> None:
        """Compare an answer with the model's."""
        event(f"{type(command).__name__} {expected.status} {expected.problem or ''}")
        status = 200 if self.is_dry_run and expected.status == 201 else expected.status
        assert answer.status_code == status, (command, answer.text, expected)
        if expected.problem is not None:
            self.check_problem(command, answer.json(), expected)

    @staticmethod
    def check_problem(command: Command, problem: Any, expected: Answer, batch: Sequence[int] = ()) -> None:
        """Compare a problem with the model's; conflicts with orders of the batch name their index."""
        assert problem["type"] == f"/problems/{expected.problem}", (command, problem)
        if expected.problem == "orders-too-close":
            conflicts = [
                (batch[c["index"]] if "index" in c else int(c["id"]), datetime.fromisoformat(c["datetime"]))
                for c in problem["conflicts"]
            ]
            assert conflicts == [*expected.conflicts], (command, problem)
            nearest = {side: at and datetime.fromisoformat(at) for side, at in problem["nearest"].items()}
            assert nearest == {"before": expected.before, "after": expected.after}, (command, problem)

    def do(self, command: Command) -> None:
        """Run one command on both."""
        self.commands += 1
        self.model.attribution = ("import" if isinstance(command, Import) else "anyone", self.reason)
        match command:
            case PatchMany() | Swap() | EndMany():
                self.do_many(command)
            case DryRun(dry):
                kept, self.model, self.is_dry_run = self.model, deepcopy(self.model), True
                self.do(dry)
                self.model, self.is_dry_run = kept, False
            case Import():
                self.do_import(command)
            case Archive(service):
                self.check(command, self.send("DELETE", f"/services/{service}"), self.model.archive(service))
            case Rename(service, name):
                answer = self.send("PUT", f"/services/{service}", json.dumps({"name": name}))
                self.check(command, answer, self.model.rename(service, name))
            case PutCalendar() | PatchCalendar() | DeleteCalendar():
                do_calendar_command(self.api, self.model, command)
            case _:
                self.do_one(command)

    def do_one(self, command: Create | Put | Patch | Delete | ChangeStatus) -> None:
        """Write one order."""
        match command:
            case Create(order_id, at, fee, services, calendar, reference, metadata):
                answer = self.send("POST", "/orders", written(**vars(command)))
                expected = self.model.create(order_id, at, services, calendar, reference)
                self.check(command, answer, expected)
                if answer.status_code == 201:
                    got = int(answer.json()["id"])
                    assert got == order_id or (order_id is None and got >= FIRST_ID_OF_THE_SERVER)
                    self.model.store(got, at, fee, services, calendar, reference=reference, metadata=metadata)
                    self.shows(got, answer)
            case Put(number):
                order_id = self.order_id(number)
                fields = {name: value for name, value in vars(command).items() if name != "which"}
                answer = self.send("PUT", f"/orders/{order_id}", written(**fields))
                fields["all_metadata"] = fields.pop("metadata")
                self.check(command, answer, self.model.update(order_id, fields))
                self.shows(order_id, answer)
            case Patch(number, fields):
                order_id = self.order_id(number)
                answer = self.send("PATCH", f"/orders/{order_id}", written(**fields))
                self.check(command, answer, self.model.update(order_id, fields))
                self.shows(order_id, answer)
            case Delete(number):
                order_id = self.order_id(number)
                self.check(command, self.send("DELETE", f"/orders/{order_id}"), self.model.delete(order_id))
            case ChangeStatus(number, status):
                order_id = self.order_id(number)
                verb = "cancel" if status == "cancelled" else "reinstate"
                answer = self.send("POST", f"/orders/{order_id}/{verb}")
                self.check(command, answer, self.model.change_status(order_id, status))
                self.shows(order_id, answer)

    def do_many(self, command: PatchMany | Swap | EndMany) -> None:
        """Write several orders at once."""
        match command:
            case PatchMany(patches):
                self.do_patches(command, {self.order_id(number): fields for number, fields in patches})
            case Swap(numbers):
                ids = list(dict.fromkeys(map(self.order_id, numbers)))
                orders = [self.model.orders[order_id] for order_id in ids if order_id in self.model.orders]
                places = [
                    {"at": o.at, "calendar": o.calendar, "reference": o.reference}
                    for o in orders[1:] + orders[:1]
                ]
                self.do_patches(command, dict(zip(ids, places, strict=False)))
            case EndMany(how, numbers):
                ids = list(dict.fromkeys(map(self.order_id, numbers)))
                answer = self.send(
                    "POST",
                    f"/orders/batch/{how}",
                    json.dumps({"orders": [{"id": order_id} for order_id in ids]}),
                )
                before = dict(self.model.orders)
                self.check_batch(command, answer, ids, self.model.end_many(how, ids), before)

    def do_patches(self, command: Command, changes: dict[int, dict[str, Any]]) -> None:
        """PATCH several orders at once."""
        if not changes:
            return
        given: set[str] = set()
        for fields in changes.values():
            if fields.get("reference") in given:  # two orders of a batch may not be given the same
                del fields["reference"]
            elif fields.get("reference"):
                given.add(fields["reference"])
        items = (
            f'{{"id": {order_id}, {written(**fields)[1:]}' for order_id, fields in changes.items() if fields
        )
        changes = {order_id: fields for order_id, fields in changes.items() if fields}
        if not changes:
            return
        answer = self.send("PATCH", "/orders/batch", f'{{"orders": [{", ".join(items)}]}}')
        self.check_batch(command, answer, [*changes], self.model.update_many(changes))

    def check_batch(
        self,
        command: Command,
        answer: httpx.Response,
        ids: list[int],
        refusals: dict[int, Answer],
        deleted: Mapping[int, ModelOrder] = MappingProxyType({}),
    ) -> None:
        """Compare the answer to a batch: every refusal, or the orders, also those that it deleted."""
        event(f"{type(command).__name__} {'refused' if refusals else 'done'}")
        assert answer.status_code == (409 if refusals else 200), (command, answer.text, refusals)
        if refusals:
            items = {item["index"]: item for item in answer.json()["items"]}
            assert [*items] == sorted(refusals), (command, answer.text, refusals)
            for index, expected in refusals.items():
                assert items[index]["status"] == expected.status
                self.check_problem(command, items[index], expected, ids)
        else:
            orders = json.loads(answer.text, parse_float=Decimal)["orders"]
            expected_orders = [self.model.orders.get(n) or deleted[n] for n in ids]
            assert [self.as_model(order) for order in orders] == expected_orders, command

    def do_import(self, command: Import) -> None:
        """Import orders, as ``oms import`` does."""
        file = f"[{', '.join(written(**vars(order)) for order in command.orders)}]"
        self.imports += 1
        digest = sha256(f"{self.imports}".encode()).hexdigest()
        faults = FaultReport()
        rows = ((None, value) for value in json.loads(file, parse_float=Decimal))
        orders = check_orders(ImportedFile("orders.json", digest, len(command.orders), rows), faults)
        assert not faults
        expected = self.model.faults_of_import(
            [
                (o.id or 0, o.at, o.fee, o.services[::-1], o.calendar, o.reference, o.metadata, o.status)
                for o in command.orders
            ]
        )
        event(f"Import {'refused' if expected else 'accepted'}")
        reasons: set[str] = set()
        try:
            done = self.run(
                import_orders(
                    "orders.json",
                    digest,
                    orders,
                    faults=faults,
                    attribution=Attribution("import", self.reason),
                )
            )
            assert (done.orders, done.before) == (len(orders), False)
        except ImportRefusedError:
            *lines, _ = faults.page()
            reasons = {line.partition(":")[0] for line in lines}
        assert reasons == expected, command
        if reasons:
            return
        shown = {int(order["id"]) for order in self.api.every_order()}
        new_ids = iter(sorted(shown - self.model.orders.keys() - {o.id for o in command.orders}))
        for order in command.orders:
            order_id = order.id if order.id is not None else next(new_ids)
            row = tuple(value for name, value in vars(order).items() if name != "id")
            self.model.store_imported(self.imports, order_id, (order_id, *row))

    def shows(self, order_id: int, answer: httpx.Response) -> None:
        """Compare the order in an answer with the model's."""
        if answer.is_success:
            assert self.as_model(json.loads(answer.text, parse_float=Decimal)) == self.model.orders[order_id]
            etag = None if self.is_dry_run else tag(self.model.orders[order_id].version)
            assert answer.headers.get("ETag") == etag

    @staticmethod
    def as_model(order: dict[str, Any]) -> ModelOrder:
        """Read an order as the model knows it."""
        return ModelOrder(
            int(order["id"]),
            datetime.fromisoformat(order["datetime"]),
            Decimal(order["totalfee"]),
            tuple((int(service["id"]), service["name"]) for service in order["services"]),
            order["calendar"],
            order["reference"],
            order["metadata"],
            order["status"],
            order["version"],
        )

    def check_end(self) -> None:
        """Compare the end state: calendars, orders as lists have them, their changes, and fee summaries."""
        check_calendars(self.api, self.model)
        listed = [
            self.as_model(json.loads(json.dumps(order), parse_float=Decimal))
            for order in self.api.every_item("/orders?limit=7")
        ]
        assert listed == sorted(self.model.orders.values(), key=lambda order: (order.at, order.id))
        check_filters(self.api, self.model)
        for order_id, history in self.model.history.items():
            changes = self.api.every_item(f"/orders/{order_id}/changes?limit=7")
            assert [(c["type"], c["actor"], c.get("reason")) for c in changes] == history, order_id
        for by, period in (("service", "day"), ("calendar", "week"), ("none", "month"), ("none", "day")):
            answer = self.api.fee_summaries(by=by, group_by=period)
            assert answer["as_of"]["position"] == self.model.changes
            summaries = {
                (
                    date.fromisoformat(item["period"]),
                    item["calendar"] if by == "calendar" else item["service"] and int(item["service"]["id"]),
                ): (item["orders"], Decimal(item["totalfee"]))
                for item in answer["items"]
            }
            assert summaries == self.model.summaries(by, period), (by, period)


@pytest.mark.timeout(max(300, 4 * HISTORIES))  # a failure is first made as small as possible
@settings(
    derandomize=True,
    max_examples=HISTORIES,
    deadline=None,
    database=None,
    # Each example begins by emptying the tables that the fixtures share.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=commands, at_once=st.integers(1, 9))
@example(  # room for exactly one order, at exactly one instant, between two that are six hours apart
    history=[
        Create(None, NOON + timedelta(hours=hours), Decimal("0.01"), (123, 789), "default")
        for hours in (0, 6, 12.5, 1, 5, 3, 2, 4)
    ],
    at_once=1,
)
@example(  # a spacing that changes among orders, of which two were imported together
    history=[
        *(_free_order(hours) for hours in (0, 3, 6.5)),
        Import(tuple(ImportedOrder(**vars(_free_order(hours))) for hours in (12, 12.5))),
        PatchCalendar("default", {"spacing": timedelta(hours=6)}),
        PatchCalendar("default", {"spacing": timedelta(minutes=90)}),
        _free_order(1.5),
        PutCalendar("default", {"title": "x"}),
        PatchCalendar("default", {"spacing": timedelta(minutes=45), "title": None}),
        *(_free_order(hours) for hours in (0.5, 0.75, 13, 14)),
        *[Delete(1)] * 9,
        DeleteCalendar("default"),
        PatchCalendar("default", {"title": "y"}),
        *(_free_order(hours) for hours in (0, 2, 3)),
    ],
    at_once=2,
)
def test_every_answer_and_the_final_state_equal_those_of_the_model(
    api: Api, database: Database, run: Run, history: list[Command], at_once: int
) -> None:
    """Status, conflicts and nearest free datetimes of each answer; then all orders and all summaries."""
    database.clean()
    database.add_services()
    both = History(api, run)
    for command in history:
        both.do(command)
    assert database.value("SELECT count(*) FROM order_change") == both.model.changes
    assert database.too_close_pairs() == []
    assert run(apply_every_change(at_once)) == both.model.changes
    both.check_end()
    assert database.wrong_summaries() == []
