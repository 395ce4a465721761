"""POST /orders/{id}/cancel and /reinstate: the order is kept, its place is free, and it may come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import NOON, later, order_body, tag, text_of
from tests.drivers import Api, at_once, faulty_places
from tests.import_steps import import_sample
from tests.serving import serving
from tests.steps import apply_every_change

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import httpx

    from tests.drivers import Database

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


def cancel(api: Api, order_id: object = 5, **more: Any) -> httpx.Response:
    """Cancel an order; ``more`` as httpx takes it."""
    return api.client.post(f"/orders/{order_id}/cancel", **more)


def reinstate(api: Api, order_id: object = 5, **more: Any) -> httpx.Response:
    """Reinstate an order."""
    return api.client.post(f"/orders/{order_id}/reinstate", **more)


def changes_of(database: Database) -> list[dict[str, Any]]:
    """Return what is recorded of each change."""
    return database.rows("SELECT type, order_version, actor, reason FROM order_change ORDER BY id")


def test_a_cancelled_order_is_kept_and_its_place_is_free(api: Api) -> None:
    """It can be read and is listed; another order takes its place."""
    order = api.placed_order(id=5)
    answer = cancel(api)
    cancelled = answer.json()
    assert answer.status_code == 200
    assert answer.headers["etag"] == tag(2)
    assert cancelled == order | {
        "status": "cancelled",
        "version": 2,
        "updated_at": cancelled["updated_at"],
    }
    assert api.client.get("/orders/5").content == answer.content
    assert api.every_order() == [cancelled]
    assert api.place_order(at=later(hours=1)).status_code == 201


def test_a_reinstated_order_has_its_place_again(api: Api, database: Database) -> None:
    """Each is a change of its own type, with what the order was before."""
    order = api.placed_order(id=5)
    cancel(api)
    answer = reinstate(api)
    assert answer.status_code == 200
    assert answer.headers["etag"] == tag(3)
    assert answer.json() == order | {"version": 3, "updated_at": answer.json()["updated_at"]}
    assert api.place_order(at=later(hours=1)).status_code == 409
    assert [row["type"] for row in changes_of(database)] == [
        "order.created",
        "order.cancelled",
        "order.reinstated",
    ]


def test_an_order_whose_place_was_taken_is_not_reinstated(api: Api) -> None:
    """The usual problem, with the nearest free datetimes. Once the other moves, the order can come back."""
    api.placed_order(id=5)
    cancel(api)
    other = api.placed_order(at=later(hours=2))
    answer = reinstate(api)
    assert answer.status_code == 409
    problem = answer.json()
    assert problem["type"] == "/problems/orders-too-close"
    assert problem["conflicts"] == [{"id": other["id"], "datetime": other["datetime"]}]
    assert problem["nearest"] == {"before": "2030-06-01T11:00:00.000Z", "after": "2030-06-01T17:00:00.000Z"}
    assert api.client.get("/orders/5").json()["status"] == "cancelled"
    assert api.client.patch(f"/orders/{other['id']}", json={"datetime": text_of(later(hours=3))}).is_success
    assert reinstate(api).status_code == 200


@pytest.mark.parametrize("write", [cancel, reinstate])
def test_repeating_a_cancellation_or_reinstatement_changes_nothing(
    api: Api, database: Database, write: Callable[..., httpx.Response]
) -> None:
    """The same version, no change, whatever reason is given."""
    api.placed_order(id=5)
    cancel(api)
    first = write(api)
    before = database.everything()
    for more in ({}, {"json": {"reason": "again"}}):
        again = write(api, **more)
        assert (again.status_code, again.content) == (200, first.content)
    assert database.everything() == before


@pytest.mark.parametrize("write", [cancel, reinstate])
def test_the_status_of_an_unknown_or_deleted_order_cannot_be_changed(
    api: Api, write: Callable[..., httpx.Response]
) -> None:
    """404, as for every other write."""
    api.placed_order(id=5)
    api.client.delete("/orders/5")
    for order_id in (5, 6):
        answer = write(api, order_id)
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
    assert write(api, "abc").status_code == 400


# --- the body, and who and why -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"json": {}},
        {"json": {"reason": None}},
        {"content": b""},
        {"content": b"", "headers": {"Content-Type": "application/json"}},
        {"content": iter([b""])},
    ],
    ids=["none", "an empty object", "null", "empty", "empty JSON", "empty chunks"],
)
def test_a_cancellation_needs_no_body_and_no_reason(api: Api, database: Database, more: Any) -> None:
    """The change then has none."""
    api.placed_order(id=5)
    assert cancel(api, **more).status_code == 200
    assert changes_of(database)[-1]["reason"] is None


@pytest.mark.parametrize("write", [cancel, reinstate])
@pytest.mark.parametrize(
    "more",
    [
        {"json": {"reason": "Überschwemmung 🌊"}},
        {"headers": {"Change-Reason": "%C3%9Cberschwemmung%20%F0%9F%8C%8A"}},
        {
            "json": {"reason": "Überschwemmung 🌊"},
            "headers": {"Change-Reason": "%C3%9Cberschwemmung%20%F0%9F%8C%8A"},
        },
    ],
    ids=["in the body", "in the header", "in both"],
)
def test_the_reason_is_recorded_with_the_change(
    api: Api, database: Database, write: Callable[..., httpx.Response], more: Any
) -> None:
    """From the body, from the header, or the same in both."""
    api.placed_order(id=5)
    if write is reinstate:
        cancel(api)
    assert write(api, **more).status_code == 200
    last = changes_of(database)[-1]
    assert (last["actor"], last["reason"]) == ("anyone", "Überschwemmung 🌊")


def test_a_reason_in_the_body_that_differs_from_the_header_is_refused(api: Api, database: Database) -> None:
    """400: which of them was meant?"""
    api.placed_order(id=5)
    counts = database.counts()
    answer = cancel(api, json={"reason": "one"}, headers={"Change-Reason": "another"})
    assert answer.status_code == 400
    assert [fault["header"] for fault in answer.json()["errors"]] == ["Change-Reason"]
    assert database.counts() == counts


@pytest.mark.parametrize("reason", ["", " ", " a", "a" * 201, "a\nb", "\u200b", 7, ["a"]], ids=repr)
def test_an_unreadable_reason_is_refused(api: Api, database: Database, reason: object) -> None:
    """It has 1 to 200 characters that can be seen."""
    api.placed_order(id=5)
    counts = database.counts()
    for write in (cancel, reinstate):
        assert faulty_places(write(api, json={"reason": reason})) == ["#/reason"]
    assert database.counts() == counts


@pytest.mark.parametrize(
    ("body", "status"), [(b"[]", 422), (b'{"why": "a"}', 422), (b"{", 400), (b" ", 400), (b"null", 422)]
)
def test_a_body_that_is_not_one_is_refused(api: Api, body: bytes, status: int) -> None:
    """As everywhere; only an empty one is none."""
    api.placed_order(id=5)
    assert api.post_text("/orders/5/cancel", body).status_code == status
    assert api.post_text("/orders/5/cancel", b"{}", "text/plain").status_code == 415
    assert api.client.get("/orders/5").json()["status"] == "booked"


# --- preconditions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [cancel, reinstate])
def test_if_match_protects_a_status_like_any_other_write(
    api: Api, database: Database, write: Callable[..., httpx.Response]
) -> None:
    """412 at another version, also where nothing would change."""
    api.placed_order(id=5)
    cancel(api)
    counts = database.counts()
    for tags in (tag(1), f"W/{tag(2)}"):
        answer = write(api, headers={"If-Match": tags})
        assert (answer.status_code, answer.headers["etag"]) == (412, tag(2))
    assert write(api, headers={"If-None-Match": "*"}).status_code == 412
    assert database.counts() == counts
    assert write(api, headers={"If-Match": tag(2)}).status_code == 200


def test_a_deployment_that_requires_if_match_requires_it_for_a_status_too(
    api: Api, postgres_url: str, redis_url: str
) -> None:
    """And the version of each order of a batch."""
    api.placed_order(id=5)
    with serving(database=postgres_url, redis=redis_url, OMS_REQUIRE_IF_MATCH="yes") as (strict, _):
        assert cancel(strict).status_code == reinstate(strict).status_code == 428
        for path in ("/orders/batch/cancel", "/orders/batch/delete"):
            assert strict.client.post(path, json={"orders": [{"id": 5}]}).status_code == 428
        patches = {"orders": [{"id": 5, "totalfee": 7}]}
        assert strict.client.patch("/orders/batch", json=patches).status_code == 428
        patches["orders"][0]["version"] = 1
        assert strict.client.patch("/orders/batch", json=patches).status_code == 200
        assert cancel(strict, headers={"If-Match": tag(2)}).status_code == 200


# --- what can be changed of a cancelled order --------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"datetime": text_of(later(hours=6))},
        {"totalfee": 7},
        {"services": [{"id": 123}, {"id": 456}]},
        {"services": [{"id": 456}]},
        {"calendar": "crew-1"},
        {"totalfee": 7, "reference": "A"},
    ],
    ids=str,
)
def test_a_cancelled_order_keeps_its_datetime_fee_services_and_calendar(
    api: Api, database: Database, change: dict[str, Any]
) -> None:
    """409 that says how to reinstate it; by PATCH, by PUT and in a batch."""
    api.placed_order(id=5)
    cancel(api)
    before = database.everything()
    patched = api.client.patch("/orders/5", json=change)
    replaced = api.client.put("/orders/5", json=order_body() | change)
    for answer in (patched, replaced):
        assert answer.status_code == 409
        assert answer.json()["type"] == "/problems/order-cancelled"
        assert "POST /orders/5/reinstate" in answer.json()["detail"]
    batch = api.client.patch("/orders/batch", json={"orders": [{"id": 5, **change}]}).json()
    assert [item["type"] for item in batch["items"]] == ["/problems/order-cancelled"]
    assert database.everything() == before


def test_the_reference_and_metadata_of_a_cancelled_order_can_be_changed(api: Api, database: Database) -> None:
    """Also beside other members that are sent back as they are; the order stays cancelled, its place free."""
    order = api.placed_order(id=5)
    cancel(api)
    read = api.client.get("/orders/5").json()
    assert api.client.patch("/orders/5", json={"metadata": {"note": "x"}}).json()["metadata"] == {"note": "x"}
    answer = api.client.put("/orders/5", json=read | {"reference": "A", "version": 3})
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["reference"], shown["status"], shown["version"]) == ("A", "cancelled", 4)
    assert api.client.put("/orders/5", json=shown).json() == shown
    assert api.place_order(at=order["datetime"]).status_code == 201
    assert [row["type"] for row in changes_of(database)][2:4] == ["order.updated", "order.updated"]


def test_metadata_of_a_cancelled_order_waits_for_no_spacing(api: Api, database: Database) -> None:
    """It takes no place. So a batch that has a reference already never waits for a spacing that changes."""
    api.placed_order(id=5)
    cancel(api)
    spacing = "(7316008, (SELECT calendar_id FROM orders))"
    database.rows(f"SELECT pg_advisory_lock{spacing}")
    try:
        answer = api.client.patch("/orders/5", json={"metadata": {"a": "b"}}, timeout=5)
    finally:
        database.rows(f"SELECT pg_advisory_unlock{spacing}")
    assert answer.json()["metadata"] == {"a": "b"}


def test_a_cancelled_order_keeps_the_names_of_its_services(api: Api) -> None:
    """Sent back as it was read it is unchanged, though a service was renamed or archived meanwhile."""
    api.placed_order(id=5, services=(123, 456))
    cancelled = cancel(api).json()
    api.client.put("/services/123", json={"name": "Renamed"})
    api.client.delete("/services/456")
    answer = api.client.put("/orders/5", json=cancelled)
    assert (answer.status_code, answer.json()) == (200, cancelled)


def test_a_cancelled_order_can_be_deleted(api: Api, run: Run, database: Database) -> None:
    """What was taken out of the sums is not taken out again."""
    api.placed_order(id=5)
    cancel(api)
    run(apply_every_change())
    assert api.client.delete("/orders/5").status_code == 204
    assert reinstate(api).status_code == 404
    run(apply_every_change())
    assert database.wrong_summaries() == []


@pytest.mark.parametrize("status", ["booked", "cancelled"])
def test_a_status_in_a_body_may_only_be_the_orders_own(api: Api, status: str) -> None:
    """422 that names the routes which change it; the order as it was read can be sent back."""
    api.placed_order(id=5)
    if status == "cancelled":
        cancel(api)
    other = {"booked": "cancelled", "cancelled": "booked"}[status]
    for answer in (
        api.client.patch("/orders/5", json={"status": other}),
        api.client.put("/orders/5", json=order_body(status=other)),
    ):
        assert faulty_places(answer) == ["#/status"]
        assert "/cancel" in answer.text
        assert "/reinstate" in answer.text
    assert api.client.patch("/orders/5", json={"status": status}).json()["version"] == 1 + (other == "booked")


# --- sums, imports, availability ---------------------------------------------------------------------


def test_the_sums_have_no_cancelled_orders(api: Api, run: Run, database: Database) -> None:
    """They leave with the cancellation and come back with the reinstatement."""
    api.placed_order(id=5, fee=100.01, services=(123, 456))
    api.placed_order(at=later(days=1), fee=7)
    run(apply_every_change())
    for write, orders in ((cancel, 1), (reinstate, 2), (cancel, 1)):
        write(api)
        run(apply_every_change())
        assert api.fee_summaries()["totals"]["orders"] == orders
        assert database.wrong_summaries() == []
        assert len(api.every_item("/fee-summaries/orders?limit=1")) == orders


def test_an_imported_order_is_reinstated_beside_the_others_of_its_import(
    api: Api, database: Database
) -> None:
    """The sample's orders are all at one time. No other order may be there, cancelled or not."""
    import_sample()
    import_ids = database.rows("SELECT id, import_id FROM orders ORDER BY id")
    assert cancel(api, 223).status_code == 200
    assert api.place_order(at="2022-11-01T11:11:11.111Z").status_code == 409
    assert reinstate(api, 223).status_code == 200
    assert database.rows("SELECT id, import_id FROM orders ORDER BY id") == import_ids
    for order_id in (223, 224, 225):
        cancel(api, order_id)
    assert api.place_order(at="2022-11-01T12:11:11.111Z").status_code == 201
    assert [reinstate(api, order_id).status_code for order_id in (223, 224, 225)] == [409] * 3


def test_a_cancelled_orders_time_is_available(api: Api) -> None:
    """Availability and the nearest free datetimes know booked orders only."""
    api.placed_order(id=5)
    api.placed_order(id=6, at=later(hours=3))
    cancel(api)
    window = {"from": text_of(later(hours=-3)), "to": text_of(later(hours=3))}
    free = api.client.get("/calendars/default/availability", params=window).json()["items"]
    assert free == [{"from": "2030-06-01T09:00:00.000Z", "to": "2030-06-01T12:00:00.000Z"}]
    problem = api.place_order(at=later(hours=2)).json()
    assert [conflict["id"] for conflict in problem["conflicts"]] == ["6"]
    assert problem["nearest"]["before"] == "2030-06-01T12:00:00.000Z"


def test_of_many_reinstatements_and_creates_at_one_place_exactly_one_succeeds(
    api: Api, database: Database
) -> None:
    """They wait for each other's places, and none deadlocks."""
    for _ in range(5):
        orders = [api.placed_order(at=later(days=day)) for day in range(1, 9)]
        for order in orders:
            path = f"/orders/{order['id']}"
            assert api.client.patch(path, json={"datetime": text_of(NOON)}).status_code == 200
            assert cancel(api, order["id"]).status_code == 200
        answers = at_once(
            [lambda order=order: reinstate(api, order["id"]) for order in orders]
            + [lambda: api.place_order(at=later(hours=1))] * 4
        )
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses in ([200, *[409] * 11], [201, *[409] * 11])
        assert database.too_close_pairs() == []
        for order in api.every_order():
            api.client.delete(f"/orders/{order['id']}")
