"""ETag, If-Match, If-None-Match: no lost updates, and no repeated transfers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import order_body, tags
from tests.drivers import Api, Database, at_once
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

WRITES = ("PUT", "PATCH", "DELETE")


def written(api: Api, method: str, fee: float = 7, path: str = "/orders/5", **headers: str) -> httpx.Response:
    """Change or delete an order under conditions: ``if_match='"1"'``."""
    body: Any = {"PUT": order_body(fee=fee), "PATCH": {"totalfee": fee}, "DELETE": None}[method]
    named = {name.replace("_", "-"): tags(value) for name, value in headers.items()}
    return api.client.request(method, path, json=body, headers=named)


def at_version_2(api: Api) -> None:
    """Create order 5 and bring it to version 2."""
    api.placed_order(id=5)
    assert written(api, "PATCH", 50).status_code == 200


def test_every_answer_with_an_order_has_the_etag_of_its_version(api: Api) -> None:
    """A strong ETag: the same tag means the same bytes."""
    created = api.place_order(id=5)
    assert created.headers["etag"] == tags('"1"')
    for version, method in ((2, "PUT"), (3, "PATCH")):
        answer = written(api, method, fee=version)
        read, head = api.client.get("/orders/5"), api.client.head("/orders/5")
        assert {one.headers["etag"] for one in (answer, read, head)} == {tags(f'"{version}"')}
        assert answer.content == read.content
        assert answer.json()["version"] == version


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize(
    "condition",
    ['"2"', "*", '"1", "2"', '"x","2" , "3"', ', "2",,', 'W/"1", "2"', '"1,2", "2"'],
)
def test_a_write_whose_if_match_names_the_current_version_succeeds(
    api: Api, method: str, condition: str
) -> None:
    """By its tag, as one of several, or by *."""
    at_version_2(api)
    assert written(api, method, if_match=condition).status_code == (204 if method == "DELETE" else 200)


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("condition", ['"1"', '"3"', 'W/"2"', '"1", W/"2"', '"1,2"', '""', '"02"', '"2x"'])
def test_a_write_whose_if_match_names_another_version_is_refused(
    api: Api, database: Database, method: str, condition: str
) -> None:
    """412, with the current tag; weak tags never match here; and nothing is changed."""
    at_version_2(api)
    counts, before = database.counts(), api.client.get("/orders/5").content
    answer = written(api, method, if_match=condition)
    assert answer.status_code == 412
    assert answer.json()["type"] == "/problems/version-mismatch"
    assert answer.headers["etag"] == tags('"2"')
    assert database.counts() == counts
    assert api.client.get("/orders/5").content == before


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("condition", ["*", '"2"', 'W/"2"', '"1", "2"'])
def test_a_write_whose_if_none_match_names_the_current_version_is_refused(
    api: Api, database: Database, method: str, condition: str
) -> None:
    """RFC 9110, 13.1.2: `If-None-Match: *` means that the order must not exist yet."""
    at_version_2(api)
    counts, before = database.counts(), api.client.get("/orders/5").content
    for match in ("*", tags('"2"')):
        answer = written(api, method, if_match=match, if_none_match=condition)
        assert answer.status_code == 412
        assert answer.headers["etag"] == tags('"2"')
    assert api.client.get("/orders/5").content == before
    assert database.counts() == counts


@pytest.mark.parametrize("method", WRITES)
def test_a_write_whose_if_none_match_names_other_versions_succeeds(api: Api, method: str) -> None:
    """An unknown order is still 404."""
    at_version_2(api)
    answer = written(api, method, if_none_match='"1", W/"3"', if_match='"2"')
    assert answer.status_code == (204 if method == "DELETE" else 200)
    assert written(api, method, path="/orders/77", if_none_match="*").status_code == 404


def test_preconditions_in_several_header_lines_are_one_list(api: Api) -> None:
    """RFC 9110, section 5.3, says that such lines are combined."""
    at_version_2(api)
    lines = [("If-Match", tags('"1"')), ("If-Match", tags('"2"'))]
    assert api.client.patch("/orders/5", json={"totalfee": 1}, headers=lines).status_code == 200
    assert api.client.patch("/orders/5", json={"totalfee": 1}, headers=lines).status_code == 412


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("condition", ['"1"', "*"])
def test_a_conditional_write_to_an_unknown_order_is_404(api: Api, method: str, condition: str) -> None:
    """404 says more than 412 would."""
    assert written(api, method, if_match=condition).status_code == 404


def test_an_invalid_body_is_refused_before_its_precondition_is_checked(api: Api) -> None:
    """It would have to be corrected in any case."""
    api.placed_order(id=5)
    answer = api.client.patch("/orders/5", json={"totalfee": -1}, headers={"If-Match": tags('"9"')})
    assert answer.status_code == 422


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("condition", ['"2"', 'W/"2"', "*", '"1", W/"2"', ', "2",'])
def test_a_read_of_a_version_known_to_the_caller_is_answered_304(
    api: Api, method: str, condition: str
) -> None:
    """With the tag and no body; weak and strong tags both match."""
    at_version_2(api)
    answer = api.client.request(method, "/orders/5", headers={"If-None-Match": tags(condition)})
    assert answer.status_code == 304
    assert answer.content == b""
    assert answer.headers["etag"] == tags('"2"')
    assert "content-type" not in answer.headers


@pytest.mark.parametrize("condition", ['"1"', 'W/"1"', '"22"', '"w/2"', '"1", "3"'])
def test_a_read_of_a_version_unknown_to_the_caller_is_answered_in_full(api: Api, condition: str) -> None:
    """With its tag, for the next time."""
    at_version_2(api)
    answer = api.client.get("/orders/5", headers={"If-None-Match": tags(condition)})
    assert answer.status_code == 200
    assert answer.json()["version"] == 2


def test_a_conditional_read_of_an_unknown_order_is_404(api: Api) -> None:
    """A tag that would match does not turn it into 304."""
    assert api.client.get("/orders/5", headers={"If-None-Match": "*"}).status_code == 404


# --- races -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", WRITES)
def test_of_twenty_concurrent_writes_to_one_version_exactly_one_succeeds(
    api: Api, database: Database, method: str
) -> None:
    """The refused ones have overwritten nothing."""
    api.placed_order(id=5)
    answers = at_once([partial(written, api, method, fee, if_match='"1"') for fee in range(1, 21)])
    statuses = sorted(answer.status_code for answer in answers)
    done = 204 if method == "DELETE" else 200
    assert statuses == [done, *[404 if method == "DELETE" else 412] * 19]
    assert database.value("SELECT count(*) FROM order_change WHERE order_id = 5") == 2
    if method != "DELETE":
        (won,) = (answer for answer in answers if answer.status_code == done)
        assert api.client.get("/orders/5").content == won.content


def test_concurrent_increments_with_if_match_lose_no_update(api: Api) -> None:
    """Each caller reads, adds one, writes if no other did, or tries again."""
    api.placed_order(id=5, fee=0)

    def add_one() -> httpx.Response:
        while True:
            read = api.client.get("/orders/5")
            answer = written(api, "PATCH", read.json()["totalfee"] + 1, if_match=read.headers["etag"])
            if answer.status_code != 412:
                return answer

    assert {answer.status_code for answer in at_once([add_one] * 8)} == {200}
    assert (
        api.client.get("/orders/5").json() | {"totalfee": 8, "version": 9}
        == api.client.get("/orders/5").json()
    )


# --- OMS_REQUIRE_IF_MATCH ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _strict_server(postgres_url: str, redis_url: str) -> Iterator[Api]:
    with serving(database=postgres_url, redis=redis_url, OMS_REQUIRE_IF_MATCH="yes") as (api, _):
        yield api


@pytest.fixture
def strict_api(_strict_server: Api, api: Api) -> Api:
    """An API that requires If-Match, with one order."""
    api.placed_order(id=5)
    return _strict_server


@pytest.mark.parametrize("method", WRITES)
def test_a_deployment_can_require_if_match_for_every_write(
    strict_api: Api, database: Database, method: str
) -> None:
    """428 without it; with a tag or with * as everywhere."""
    counts = database.counts()
    refused = written(strict_api, method)
    assert refused.status_code == 428
    assert refused.json()["type"] == "/problems/version-required"
    assert database.counts() == counts
    assert written(strict_api, method, if_match='"9"').status_code == 412
    assert written(strict_api, method, if_match='"1"').is_success


def test_creates_and_reads_never_require_if_match(strict_api: Api) -> None:
    """There is no version yet, or nothing is overwritten."""
    assert strict_api.client.get("/orders/5").status_code == 200
    assert strict_api.place_order(calendar="crew-1").status_code == 201
    assert written(strict_api, "PATCH", if_match="*").status_code == 200
