"""Requests that are too long, or have too many faults, are refused quickly and in few bytes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import order_body

if TYPE_CHECKING:
    from tests.drivers import Api

PATHS = ["/orders", "/docs", "/problems/not-found", "/health/live", "/no-such-path", "/order-changes/stream"]

LARGEST_ANSWER_BYTES = 64_000


@pytest.mark.parametrize("path", PATHS)
def test_a_query_longer_than_8_kb_is_refused_on_every_path(path: str, api: Api) -> None:
    """30,000 wrong parameters were answered with 1.7 MB, also where no key is needed."""
    answer = api.client.get(f"{path}?" + "&".join(f"a{n}" for n in range(8_000)))
    assert answer.status_code == 414
    assert answer.json()["detail"] == "The query is longer than 8,192 bytes."
    assert answer.json()["instance"] == path
    assert answer.headers["X-Request-Id"] == answer.json()["request_id"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
def test_a_path_longer_than_2_kb_is_refused(method: str, api: Api) -> None:
    """Whatever the method."""
    answer = api.client.request(method, "/orders/" + "1" * 2_048)
    assert answer.status_code == 414
    if method != "HEAD":
        assert answer.json()["detail"] == "The path is longer than 2,048 bytes."


@pytest.mark.parametrize("path", PATHS)
def test_headers_of_more_than_32_kb_together_are_refused_on_every_path(path: str, api: Api) -> None:
    """One large header, or many."""
    for headers in ({"X-A": "a" * 33_000}, {f"X-{n}": "a" * 600 for n in range(60)}):
        answer = api.client.get(path, headers=headers)
        assert answer.status_code == 431
        assert answer.json()["type"] == "/problems/headers-too-large"


def test_what_is_just_short_enough_is_read(api: Api) -> None:
    """The limits include their last byte."""
    assert api.client.get("/orders?x=" + "a" * 8_190).status_code == 400
    assert api.client.get("/orders/" + "1" * 2_040).status_code == 400
    assert api.client.get("/health/live", headers={"X-A": "a" * 32_000}).status_code == 200


def assert_names_the_first_hundred(answer: Any, count: int) -> None:
    assert len(answer.content) < LARGEST_ANSWER_BYTES
    problem = answer.json()
    assert len(problem["errors"]) == 100
    said = re.fullmatch(r"(.+?): .+ \(([\d,]+) more; errors has the first 100\)", problem["detail"])
    assert said, problem["detail"]
    assert len(said[1].split(", ")) + int(said[2].replace(",", "")) == count


def test_a_query_names_its_first_hundred_faults_and_how_many_more(api: Api) -> None:
    """Unknown parameters, those that appear twice, those that are not UTF-8."""
    for query in ("&".join(f"{n:x}" for n in range(2_000)), "&".join(["%FF"] * 2_000)):
        answer = api.client.get(f"/orders?{query}")
        assert answer.status_code == 400
        assert_names_the_first_hundred(answer, 2_000)


@pytest.mark.parametrize(
    ("method", "path", "body", "count"),
    [
        ("POST", "/orders", order_body() | {f"m{n}": 1 for n in range(5_000)}, 5_000),
        ("PATCH", "/orders/5", {f"m{n}": 1 for n in range(5_000)}, 5_000),
        ("POST", "/orders/batch", {"orders": [{f"m{n}": 1 for n in range(80)}] * 100}, 8_200),
        ("POST", "/orders/batch", {"orders": [{"services": [{"a": 1}] * 50}] * 100}, 10_100),
        ("POST", "/services", {f"m{n}": 1 for n in range(3_000)}, 3_001),
        ("POST", "/webhooks", {f"m{n}": 1 for n in range(3_000)}, 3_001),
    ],
)
def test_a_body_names_its_first_hundred_faults_and_how_many_more(
    method: str, path: str, body: Any, count: int, api: Api
) -> None:
    """Members that are missing or unknown, in an object or in many."""
    answer = api.client.request(method, path, json=body)
    assert answer.status_code == 422
    assert_names_the_first_hundred(answer, count)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"é" * 450_000: 1}, ensure_ascii=False).encode(),
        b'{"orders":' + b"[" * 500_000,
        b'{"orders":[' + b",".join([b"9" * 4_299] * 240) + b"]}",
        b'{"orders":[' + b",".join([b"{}"] * 340_000) + b"]}",
        b'{"orders":[' + b",".join([b"1e999999"] * 100_000) + b"]}",
        b"[" * 1_000_000,
    ],
    ids=["long key", "deep member", "long numbers", "many objects", "huge exponents", "deep"],
)
def test_a_huge_body_is_refused_in_few_bytes(body: bytes, api: Api) -> None:
    """It is never repeated to the caller."""
    answer = api.client.post("/orders/batch", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert len(answer.content) < 4_000
