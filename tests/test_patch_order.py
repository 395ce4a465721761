"""PATCH /orders/{id}: a JSON Merge Patch (RFC 7396) changes what it names and leaves the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import tags

if TYPE_CHECKING:
    import httpx

from tests.drivers import Api, Database

MERGE_PATCH = "application/merge-patch+json"


def patch(api: Api, change: dict[str, Any]) -> httpx.Response:
    """Send a patch of order 5."""
    return api.client.patch("/orders/5", json=change, headers={"Content-Type": MERGE_PATCH})


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"totalfee": 0}, "totalfee", 0),
        ({"totalfee": 99.99}, "totalfee", 99.99),
        ({"datetime": "2031-01-01T00:00:00+01:00"}, "datetime", "2030-12-31T23:00:00.000Z"),
        ({"calendar": "crew-2"}, "calendar", "crew-2"),
        ({"calendar": "default"}, "calendar", "default"),
        ({"services": [{"id": "789"}]}, "services", [{"id": "789", "name": "Testing"}]),
    ],
    ids=str,
)
def test_a_patch_changes_the_members_that_it_names_and_no_others(
    api: Api, change: dict[str, Any], field: str, value: object
) -> None:
    """One by one."""
    order = api.placed_order(id=5, calendar="crew-1", services=(123, 456))
    answer = patch(api, change)
    assert answer.status_code == 200, answer.text
    assert answer.headers["etag"] == tags('"2"')
    patched = answer.json()
    assert patched == {**order, field: value, "version": 2, "updated_at": patched["updated_at"]}
    assert api.client.get("/orders/5").content == answer.content


def test_a_patch_may_be_sent_as_plain_json(api: Api) -> None:
    """It is read the same way."""
    api.placed_order(id=5)
    assert api.client.patch("/orders/5", json={"totalfee": 7}).json()["totalfee"] == 7


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"totalfee": None}, "#/totalfee"),
        ({"datetime": None}, "#/datetime"),
        ({"services": None}, "#/services"),
        ({"services": []}, "#/services"),
        ({"services": [{"id": "999"}]}, "#/services/0/id"),
        ({"services": [{"id": 123, "title": "x"}]}, "#/services/0/title"),
        ({"totalfee": 10.005}, "#/totalfee"),
        ({"totalfee": True}, "#/totalfee"),
        ({"datetime": "2030-06-01T12:00:00"}, "#/datetime"),
        ({"calendar": ""}, "#/calendar"),
        ({"id": "6"}, "#/id"),
        ({"id": None}, "#/id"),
        ({"version": "1"}, "#/version"),
        ({"version": None}, "#/version"),
        ({"import_id": 0}, "#/import_id"),
    ],
    ids=str,
)
def test_an_invalid_patch_changes_nothing(api: Api, change: dict[str, Any], pointer: str) -> None:
    """Null would remove a member, and none can be removed."""
    order = api.placed_order(id=5, calendar="crew-1")
    answer = patch(api, {"calendar": "crew-2", **change})
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
    assert api.client.get("/orders/5").json() == order


def test_a_patch_that_is_not_an_object_is_refused(api: Api) -> None:
    """RFC 7396 would replace the whole order by it."""
    api.placed_order(id=5)
    for body in ("[]", "null", "1"):
        answer = api.client.patch("/orders/5", content=body, headers={"Content-Type": MERGE_PATCH})
        assert answer.status_code == 422


@pytest.mark.parametrize("content_type", ["text/plain", "application/json-patch+json"])
def test_a_patch_of_another_media_type_is_refused(api: Api, content_type: str) -> None:
    """The acceptable ones are named in Accept-Patch (RFC 5789)."""
    api.placed_order(id=5)
    answer = api.client.patch("/orders/5", content=b"{}", headers={"Content-Type": content_type})
    assert answer.status_code == 415
    assert MERGE_PATCH in answer.headers["accept-patch"]


def test_patching_an_unknown_order_is_404(api: Api, database: Database) -> None:
    """Nothing is created."""
    before = database.counts()
    assert patch(api, {"totalfee": 7, "calendar": "new"}).status_code == 404
    assert database.counts() == before


def test_services_keep_their_names_unless_the_patch_names_services(api: Api) -> None:
    """A new fee does not rename what was ordered."""
    api.placed_order(id=5)
    api.client.put("/services/123", json={"name": "Survey"})
    assert patch(api, {"totalfee": 7}).json()["services"] == [{"id": "123", "name": "Inspection"}]
    assert patch(api, {"services": [{"id": 123}]}).json()["services"] == [{"id": "123", "name": "Survey"}]


def test_an_order_with_an_archived_service_can_be_patched(api: Api) -> None:
    """It keeps the service, also when the patch repeats it."""
    api.placed_order(id=5)
    api.client.delete("/services/123")
    assert patch(api, {"totalfee": 7}).status_code == 200
    assert patch(api, {"services": [{"id": 123}, {"id": 456}]}).status_code == 200
    assert patch(api, {"services": [{"id": 456}]}).status_code == 200
