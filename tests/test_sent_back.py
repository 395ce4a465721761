"""What a GET returned can be sent back, changed or not; a write that changes nothing stores nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import later, order_body, tags
from tests.drivers import faulty_places
from tests.webhook_steps import subscribe

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api, Database

WRITES = ("PUT", "PATCH")


def send_back(api: Api, method: str, path: str, **changes: Any) -> httpx.Response:
    """Read a resource and send it back, with changes."""
    return api.client.request(method, path, json=api.client.get(path).json() | changes)


@pytest.mark.parametrize("method", WRITES)
def test_an_order_that_is_sent_back_stays_the_same(api: Api, database: Database, method: str) -> None:
    """The same bytes and version, no change in the log, no new time."""
    api.placed_order(id=5, services=(123, 456), calendar="crew-1", fee=99.95)
    before, stored = api.client.get("/orders/5"), database.everything()
    answer = send_back(api, method, "/orders/5")
    assert (answer.status_code, answer.content) == (200, before.content)
    assert answer.headers["etag"] == before.headers["etag"] == tags('"1"')
    assert database.everything() == stored


def test_an_order_with_as_much_metadata_as_it_may_have_is_created_and_sent_back(api: Api) -> None:
    """Also in JSON of ASCII characters, in which each of these has twelve bytes."""
    metadata = {f"{number:02}" + "😀" * 38: "😀" * 500 for number in range(50)}
    created = api.client.post(
        "/orders",
        content=json.dumps(order_body(id=5, metadata=metadata), ensure_ascii=True),
        headers={"Content-Type": "application/json"},
    )
    assert created.status_code == 201, created.text
    for method in WRITES:
        answer = send_back(api, method, "/orders/5")
        assert (answer.status_code, answer.content) == (200, created.content)


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"totalfee": 1}, 1),
        ({"datetime": "2031-01-01T00:00:00Z"}, "2031-01-01T00:00:00.000Z"),
        ({"calendar": "crew-2"}, "crew-2"),
        ({"services": [{"id": "789", "name": "any"}]}, [{"id": "789", "name": "Testing"}]),
    ],
    ids=str,
)
def test_an_order_that_is_sent_back_changed_gets_its_next_version(
    api: Api, method: str, changes: dict[str, Any], shown: object
) -> None:
    """Only what callers set is changed."""
    order = api.placed_order(id=5)
    changed = send_back(api, method, "/orders/5", created_at=None, updated_at="any", **changes).json()
    assert changed == {
        **order,
        **dict.fromkeys(changes, shown),
        "version": 2,
        "updated_at": changed["updated_at"],
    }


@pytest.mark.parametrize("method", WRITES)
def test_the_version_in_a_body_must_be_the_current_one(api: Api, database: Database, method: str) -> None:
    """A read, another caller's write, and then the write of what was read: 412, as with If-Match."""
    read = api.placed_order(id=5)
    api.client.patch("/orders/5", json={"totalfee": 50})
    stored = database.everything()
    answer = api.client.request(method, "/orders/5", json=read | {"totalfee": 7})
    assert (answer.status_code, answer.json()["type"]) == (412, "/problems/version-mismatch")
    assert answer.json()["detail"] == "Order 5 is at version 2, not 1 as the body says."
    assert answer.headers["etag"] == tags('"2"')
    assert database.everything() == stored
    answer = api.client.request(
        method, "/orders/5", json=read | {"version": 2, "totalfee": 7}, headers={"If-Match": tags('"2"')}
    )
    assert (answer.status_code, answer.json()["version"]) == (200, 3)


@pytest.mark.parametrize("method", WRITES)
def test_a_write_that_changes_nothing_still_checks_its_conditions(api: Api, method: str) -> None:
    """412 for another version, though nothing would be stored."""
    body = api.placed_order(id=5)
    for headers, status in (
        ({"If-Match": tags('"1"')}, 200),
        ({"If-Match": tags('"2"')}, 412),
        ({"If-None-Match": "*"}, 412),
    ):
        assert api.client.request(method, "/orders/5", json=body, headers=headers).status_code == status


@pytest.mark.parametrize(
    "body",
    [
        {"totalfee": 100},
        {"services": [{"id": 456}, {"id": "123"}]},
        {"datetime": "2030-06-01T17:30:00.000000+05:30"},
        {"calendar": "default"},
        {"id": 5},
        {"created_at": None},
        {"version": 1},
    ],
    ids=str,
)
def test_a_patch_with_the_same_values_stores_nothing(
    api: Api, database: Database, body: dict[str, Any]
) -> None:
    """Compared by value: another zone, order or notation is no change."""
    order = api.placed_order(id=5, services=(123, 456))
    stored = database.everything()
    answer = api.client.patch("/orders/5", json=body)
    assert (answer.status_code, answer.json()) == (200, order)
    assert database.everything() == stored


def test_an_order_may_be_copied_as_it_was_read(api: Api) -> None:
    """A create ignores what only the service sets; a new id and datetime make it another order."""
    order = api.placed_order(id=5, services=(123, 456), fee=1.5)
    answer = api.client.post(
        "/orders", json=order | {"id": "6", "datetime": "2031-01-01T00:00:00Z", "version": 9}
    )
    assert answer.status_code == 201
    copy = answer.json()
    assert copy["version"] == 1
    assert copy["created_at"] > order["created_at"]
    assert copy["services"] == order["services"]


def test_a_copied_order_with_the_same_key_is_the_same_request(api: Api) -> None:
    """What is ignored does not count as content."""
    body, key = order_body(id=5), {"Idempotency-Key": "one"}
    first = api.client.post("/orders", json=body, headers=key)
    again = api.client.post("/orders", json=body | {"version": 4, "created_at": "now"}, headers=key)
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)


def test_optional_members_that_are_null_are_as_if_left_out_of_a_create_and_a_replacement(api: Api) -> None:
    """Typed clients write null for what they were not given."""
    created = api.client.post(
        "/orders", json=order_body(at=None) | dict.fromkeys(("id", "datetime", "calendar", "version"))
    )
    assert created.status_code == 201
    order = created.json()
    assert order["calendar"] == "default"
    path = f"/orders/{order['id']}"
    nulls = dict.fromkeys(("id", "calendar", "version", "created_at", "updated_at"))
    assert api.client.put(path, json=order_body() | nulls).json()["version"] == 2
    (batched,) = api.client.post(
        "/orders/batch", json={"orders": [order_body(at=later(days=1), calendar=None, id=None)]}
    ).json()["orders"]
    assert batched["calendar"] == "default"


@pytest.mark.parametrize("name", ["id", "datetime", "totalfee", "services", "calendar", "version"])
def test_null_in_a_patch_of_an_order_is_refused(api: Api, name: str) -> None:
    """By Merge Patch it would remove the member; an order would move to the default calendar unknowingly."""
    order = api.placed_order(id=5, calendar="crew-1")
    answer = api.client.patch("/orders/5", json={"totalfee": 5, name: None})
    assert faulty_places(answer) == [f"#/{name}"]
    assert answer.json()["errors"][0]["detail"] == "must not be null; leave it out to keep it as it is"
    assert api.client.get("/orders/5").json() == order


def test_a_put_with_one_member_says_which_are_missing_and_that_patch_changes_parts(api: Api) -> None:
    """All of them, in one sentence."""
    api.placed_order(id=5)
    answer = api.client.put("/orders/5", json={"totalfee": 5})
    assert faulty_places(answer) == ["#/datetime", "#/services"]
    assert answer.json()["detail"] == (
        "#/datetime, #/services: must be sent, as PUT replaces the whole order; "
        "PATCH changes only what it names"
    )


@pytest.mark.parametrize("condition", ['W/"1"', '"7", W/"1"', 'W/"1", W/"2"'])
@pytest.mark.parametrize("method", [*WRITES, "DELETE"])
def test_a_weak_tag_in_if_match_is_told_so(api: Api, method: str, condition: str) -> None:
    """Proxies that compress answers make tags weak; a strong comparison never matches them."""
    order = api.placed_order(id=5)
    body = None if method == "DELETE" else order
    answer = api.client.request(method, "/orders/5", json=body, headers={"If-Match": tags(condition)})
    assert answer.status_code == 412
    problem = answer.json()
    assert problem["detail"] == tags(
        'W/"1" is a weak tag, which never matches in If-Match: send "1", the order\'s ETag.'
    )
    assert "another version" not in problem["title"]


# --- services and webhooks ----------------------------------------------------------------------------------


def test_a_service_that_is_sent_back_stays_the_same(api: Api, database: Database) -> None:
    """In use or archived: archiving and restoring have requests of their own."""
    for archive in (False, True):
        if archive:
            assert api.client.delete("/services/123").status_code == 204
        stored, service = database.everything(), api.client.get("/services/123").json()
        answer = send_back(api, "PUT", "/services/123")
        assert (answer.status_code, answer.json()) == (200, service)
        assert (
            api.client.put("/services/123", json={"name": "Inspection", "archived_at": None}).json()
            == service
        )
        assert database.everything() == stored
    assert send_back(api, "PUT", "/services/123", name="Survey").json()["name"] == "Survey"
    assert faulty_places(send_back(api, "PUT", "/services/123", id="456")) == ["#/id"]


def test_a_webhook_that_is_sent_back_stays_the_same(api: Api, database: Database) -> None:
    """Enabled or disabled; its reason too."""
    webhook = subscribe(api, "https://orders.example/changes")
    path = f"/webhooks/{webhook['id']}"
    for disable in (False, True):
        if disable:
            database.rows("UPDATE webhook SET disabled_at = now(), disabled_reason = 'gone'")
        stored, shown = database.everything(), api.client.get(path).json()
        answer = send_back(api, "PATCH", path)
        assert (answer.status_code, answer.json()) == (200, shown)
        assert database.everything() == stored
    assert faulty_places(send_back(api, "PATCH", path, id="99999")) == ["#/id"]
    assert send_back(api, "PATCH", path, enabled=True).json()["disabled"] is None
    for name in ("url", "types", "calendars", "description", "enabled"):
        assert faulty_places(api.client.patch(path, json={name: None})) == [f"#/{name}"]


def test_what_is_null_in_a_new_webhook_or_service_is_as_if_left_out(api: Api) -> None:
    """As in a new order."""
    nulls = dict.fromkeys(("types", "calendars", "description"))
    webhook = api.client.post("/webhooks", json={"url": "https://orders.example/changes"} | nulls)
    assert webhook.status_code == 201
    assert (webhook.json()["types"], webhook.json()["description"]) == ([], "")
    path = f"/webhooks/{webhook.json()['id']}"
    assert api.client.post(f"{path}/secret/rotation", json={"old_valid_for": None}).status_code == 200
    assert api.client.post(f"{path}/replay", json={"after": None}).json() == {"deliveries": 0}
    assert api.client.post("/services", json={"id": None, "name": "Cleaning"}).status_code == 201


# --- services of an order, and archived ones ----------------------------------------------------------------


def services_of(answer: httpx.Response) -> list[str]:
    """Return the ids of an order's services."""
    assert answer.status_code == 200, answer.text
    return [service["id"] for service in answer.json()["services"]]


@pytest.mark.parametrize("method", WRITES)
def test_an_order_can_keep_drop_and_take_back_a_service_that_is_archived(api: Api, method: str) -> None:
    """Whenever it had it; an order that never had it can't."""
    api.placed_order(id=5, services=(123, 456))
    api.placed_order(id=6, services=(456,), at=later(days=1))

    def write(order: int, *services: int) -> httpx.Response:
        return send_back(api, method, f"/orders/{order}", services=[{"id": n} for n in services])

    assert services_of(write(5, 456)) == ["456"]
    assert api.client.delete("/services/123").status_code == 204
    assert services_of(write(5, 789, 123)) == ["123", "789"]
    assert services_of(write(5, 123)) == ["123"]
    assert services_of(write(5, 456)) == ["456"]
    assert services_of(write(5, 123, 456)) == ["123", "456"]
    assert faulty_places(write(6, 123)) == ["#/services/0/id"]
    assert faulty_places(api.place_order(services=(123,), at=later(days=2))) == ["#/services/0/id"]


def test_a_restored_service_can_be_ordered_again(api: Api, database: Database) -> None:
    """It is as it was before it was archived; restoring it again changes nothing."""
    before = api.client.get("/services/123").json()
    assert api.client.delete("/services/123").status_code == 204
    answer = api.client.post("/services/123/restore")
    assert answer.status_code == 200
    assert answer.json() == {**before, "updated_at": answer.json()["updated_at"]}
    assert api.placed_order(services=(123,))["services"][0]["id"] == "123"
    stored = database.everything()
    assert api.client.post("/services/123/restore").json() == answer.json()
    assert database.everything() == stored
    assert api.client.post("/services/5/restore").status_code == 404


def test_a_service_whose_name_was_taken_meanwhile_cannot_be_restored(api: Api) -> None:
    """Until one of the two is renamed."""
    api.client.delete("/services/123")
    assert api.client.post("/services", json={"name": "inspection", "id": 5}).status_code == 201
    refused = api.client.post("/services/123/restore")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/service-name-taken")
    assert api.client.put("/services/123", json={"name": "Inspection (old)"}).status_code == 200
    assert api.client.post("/services/123/restore").status_code == 200


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/orders/", "/orders/5/", "//orders", "/services//"])
def test_a_path_with_a_slash_too_many_is_told_the_right_one(api: Api, path: str) -> None:
    """404, which names the path that exists."""
    answer = api.client.get(f"{api.url}{path}")
    assert answer.status_code == 404
    right = "/" + "/".join(part for part in path.split("/") if part)
    assert (
        json.loads(answer.text)["detail"]
        == f"No route has this path; {right} has one, without the additional slash."
    )


def test_a_parameter_of_a_path_that_takes_none_is_told_so(api: Api) -> None:
    """Instead of an empty list of known ones."""
    answer = api.client.get("/services/5?limit=3")
    assert answer.status_code == 400
    assert answer.json()["detail"] == "limit: is unknown; this path takes none"
