"""/services: what can be ordered is created, read, renamed and archived, never destroyed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import later
from tests.drivers import at_once

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api, Database


def create(api: Api, **body: Any) -> httpx.Response:
    """Try to add a service."""
    return api.client.post("/services", json=body)


def refused(answer: httpx.Response) -> list[str]:
    """Return the pointers to all faults of a body that was refused with 422."""
    assert answer.status_code == 422, answer.text
    return [fault["pointer"] for fault in answer.json()["errors"]]


def test_a_service_is_created_and_can_be_read(api: Api) -> None:
    """201, with its location and what a GET answers."""
    answer = create(api, name="Calibration")
    assert answer.status_code == 201
    service = answer.json()
    assert answer.headers["location"] == f"/services/{service['id']}"
    assert int(service["id"]) > 999_999_999_999
    assert service == {
        "id": service["id"],
        "name": "Calibration",
        "archived_at": None,
        "created_at": service["created_at"],
        "updated_at": service["created_at"],
    }
    read = api.client.get(answer.headers["location"])
    assert (read.status_code, read.json()) == (200, service)


@pytest.mark.parametrize("service_id", ["5", 5, 999_999_999_999])
def test_a_service_keeps_the_id_that_a_caller_chose(api: Api, service_id: object) -> None:
    """As string or as integer, as in the sample data."""
    answer = create(api, id=service_id, name="Calibration")
    assert (answer.status_code, answer.json()["id"]) == (201, str(service_id))
    assert api.placed_order(services=(int(str(service_id)),))["services"][0]["name"] == "Calibration"


@pytest.mark.parametrize(
    "name", ["x", "x" * 100, "Prüfung · 検査 🔬", "A/B \"test\" <b> & 'more'", "back\\slash"]
)
def test_the_name_of_a_service_may_be_any_text_up_to_a_hundred_characters(api: Api, name: str) -> None:
    """It is answered as it was sent, on orders too."""
    service = create(api, name=name).json()
    assert service["name"] == name
    assert api.placed_order(services=(service["id"],))["services"] == [{"id": service["id"], "name": name}]


@pytest.mark.parametrize(
    ("body", "places"),
    [
        ({}, ["#/name"]),
        ({"name": ""}, ["#/name"]),
        ({"name": "x" * 101}, ["#/name"]),
        ({"name": " padded"}, ["#/name"]),
        ({"name": "padded\u00a0"}, ["#/name"]),
        ({"name": " "}, ["#/name"]),
        ({"name": "two\nlines"}, ["#/name"]),
        ({"name": "bell\a"}, ["#/name"]),
        ({"name": "\x85next"}, ["#/name"]),
        ({"name": None}, ["#/name"]),
        ({"name": 5}, ["#/name"]),
        ({"name": "x", "id": 0}, ["#/id"]),
        ({"name": "x", "id": 10**15}, ["#/id"]),
        ({"name": "x", "archived": False}, ["#/archived"]),
        ({"id": "abc", "price": 1}, ["#/id", "#/name", "#/price"]),
        ([], ["#"]),
    ],
    ids=repr,
)
def test_an_invalid_service_is_refused(api: Api, database: Database, body: object, places: list[str]) -> None:
    """All faults are reported together, and nothing is stored."""
    assert sorted(refused(api.client.post("/services", json=body))) == places
    assert database.value("SELECT count(*) FROM service") == 3


def test_a_service_with_a_malformed_body_is_refused(api: Api) -> None:
    """The same readers check it as on every other route."""
    assert api.post_text("/services", '{"name": "a", "name": "b"}').status_code == 400
    assert api.post_text("/services", '{"name": "\\u0000"}').status_code == 400
    assert api.post_text("/services", '{"name": "a"}', "text/plain").status_code == 415


@pytest.mark.parametrize("name", ["Inspection", "INSPECTION", "inspection"])
def test_a_service_cannot_have_the_name_of_another(api: Api, name: str) -> None:
    """In any case, on create and on renaming."""
    for answer in (create(api, name=name), api.client.put("/services/456", json={"name": name})):
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/service-name-taken")
    assert api.client.get("/services/456").json()["name"] == "Analysis"


def test_a_service_cannot_have_the_id_of_another(api: Api) -> None:
    """Also when that one is archived."""
    api.client.delete("/services/456")
    for service_id in ("123", 123, 456):
        answer = create(api, id=service_id, name="Calibration")
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/service-id-taken")


def test_of_many_concurrent_services_with_one_name_exactly_one_is_created(api: Api) -> None:
    """The others are refused."""
    answers = at_once([lambda: create(api, name="Calibration")] * 20)
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19


def test_a_service_can_be_renamed(api: Api) -> None:
    """It keeps its id and creation time; its own name in another case is not a conflict."""
    before = api.client.get("/services/123").json()
    for name in ("Survey", "SURVEY", "SURVEY"):
        answer = api.client.put("/services/123", json={"name": name})
        assert answer.status_code == 200
        renamed = answer.json()
        assert renamed == {**before, "name": name, "updated_at": renamed["updated_at"]}
        assert api.client.get("/services/123").json() == renamed


@pytest.mark.parametrize(
    ("body", "place"),
    [({}, "#/name"), ({"name": ""}, "#/name"), ({"name": "x", "id": "124"}, "#/id")],
    ids=str,
)
def test_an_invalid_renaming_of_a_service_is_refused(api: Api, body: object, place: str) -> None:
    """Only the name can be changed."""
    assert refused(api.client.put("/services/123", json=body)) == [place]


def test_an_archived_service_cannot_be_ordered_but_can_be_read(api: Api) -> None:
    """By itself, and on the orders that name it."""
    order = api.placed_order(services=(123, 456))
    answer = api.client.delete("/services/123")
    assert (answer.status_code, answer.content) == (204, b"")
    archived = api.client.get("/services/123").json()
    assert archived["archived_at"] is not None
    assert archived["name"] == "Inspection"
    assert api.client.get(f"/orders/{order['id']}").json() == order
    assert refused(api.place_order(at=later(days=1), services=(456, 123))) == ["#/services/1/id"]
    api.placed_order(at=later(days=1), services=(456,))


def test_archiving_a_service_twice_is_404_the_second_time(api: Api) -> None:
    """The first answer is 204."""
    assert api.client.delete("/services/123").status_code == 204
    archived = api.client.get("/services/123").json()
    assert api.client.delete("/services/123").status_code == 404
    assert api.client.get("/services/123").json() == archived


def test_the_name_of_an_archived_service_is_free_again(api: Api) -> None:
    """Its id stays taken."""
    api.client.delete("/services/123")
    assert create(api, name="Inspection").status_code == 201
    assert create(api, id=123, name="Another").status_code == 409


def test_services_are_listed_by_id_page_by_page(api: Api) -> None:
    """Each once, with any page size."""
    ids = ["5", "123", "456", "789", create(api, name="Calibration").json()["id"]]
    create(api, id=5, name="First")
    for limit in ("1", "2", "5", "100"):
        services = api.every_item(f"/services?limit={limit}")
        assert [service["id"] for service in services] == ids
    assert api.every_item("/services")[0] == api.client.get("/services/5").json()


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "name=x", "limit=1&limit=1"])
def test_a_malformed_query_for_services_is_refused(api: Api, query: str) -> None:
    """400, and the parameter is named."""
    answer = api.client.get(f"/services?{query}")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["parameter"] == query.partition("=")[0]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize(
    ("service_id", "status"),
    [("5", 404), ("999999999999999999", 404), ("abc", 400), ("0", 400), ("99999999999999999999", 400)],
)
def test_an_unknown_service_is_404(
    api: Api, database: Database, method: str, service_id: str, status: int
) -> None:
    """A malformed id is answered differently."""
    before = database.counts()
    body = {"name": "New"} if method == "PUT" else None
    assert api.client.request(method, f"/services/{service_id}", json=body).status_code == status
    assert database.counts() == before


def test_a_concurrent_order_and_archiving_both_succeed_or_the_order_is_refused(api: Api) -> None:
    """Depending on which one comes first."""
    answers = at_once(
        [
            partial(api.client.delete, "/services/123"),
            *(partial(api.place_order, at=later(days=day)) for day in range(9)),
        ]
    )
    assert answers[0].status_code == 204
    assert {answer.status_code for answer in answers[1:]} <= {201, 422}
