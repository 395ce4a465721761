"""POST /orders: malformed bodies, 400, 413 or 415, with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.builders import NOON, order_body
from tests.drivers import faulty_places

if TYPE_CHECKING:
    from tests.drivers import Api, Database


VALID = '{"datetime": "2030-06-01T12:00:00Z", "totalfee": 100, "services": [{"id": "123"}]%s}'
"""The beginning of a valid body."""


UNREADABLE = {
    "empty": b"",
    "only whitespace": b"  \n",
    "not JSON": b"totalfee=100",
    "cut off": VALID[:-3].encode(),
    "trailing data": (VALID % "" + "{}").encode(),
    "two documents": (VALID % "" + "\n" + VALID % "").encode(),
    "a trailing comma": (VALID % ",").encode(),
    "a comment": (VALID % " /* now */").encode(),
    "single quotes": b"{'totalfee': 100}",
    "a byte order mark": b"\xef\xbb\xbf" + (VALID % "").encode(),
    "UTF-16": (VALID % "").encode("utf-16"),
    "UTF-32": (VALID % "").encode("utf-32-le"),
    "invalid UTF-8": (VALID % ', "calendar": "\\').encode().replace(b"\\", b'\xff"'),
    "UTF-8 of a surrogate": (VALID % ', "calendar": "#"').encode().replace(b"#", b"\xed\xa0\x80"),
    "overlong UTF-8": (VALID % ', "calendar": "#"').encode().replace(b"#", b"\xc0\xaf"),
    "duplicate keys": (VALID % ', "totalfee": 1').encode(),
    "equal duplicate keys": (VALID % ', "totalfee": 100').encode(),
    "duplicate keys in a nested object": b'{"totalfee": 1, "services": [{"id": 123, "id": 456}]}',
    "duplicate keys, one escaped": (VALID % ', "total\\u0066ee": 1').encode(),
    "NaN": b'{"totalfee": NaN, "services": [{"id": 123}]}',
    "Infinity": b'{"totalfee": Infinity, "services": [{"id": 123}]}',
    "-Infinity": b'{"totalfee": -Infinity, "services": [{"id": 123}]}',
    "a leading zero": b'{"totalfee": 0100, "services": [{"id": 123}]}',
    "a plus sign": b'{"totalfee": +100, "services": [{"id": 123}]}',
    "a bare point": b'{"totalfee": 100., "services": [{"id": 123}]}',
    "an integer of 60,000 digits": b'{"totalfee": ' + b"9" * 60_000 + b', "services": [{"id": 123}]}',
    "a huge exponent": b'{"totalfee": 1e99999999999999999999, "services": [{"id": 123}]}',
    "nested arrays": b"[" * 60_000,
    "nested objects": b'{"a":' * 12_000,
    "nested and closed arrays": b"[" * 30_000 + b"]" * 30_000,
    "an escaped NUL": (VALID % ', "calendar": "a\\u0000"').encode(),
    "an escaped NUL in a key": (VALID % ', "a\\u0000": 1').encode(),
    "a NUL": (VALID % ', "calendar": "a\0"').encode(),
    "a lone high surrogate": (VALID % ', "calendar": "\\ud83d"').encode(),
    "a lone low surrogate": (VALID % ', "calendar": "\\ude00"').encode(),
    "a lone surrogate in a key": (VALID % ', "\\ud83d": 1').encode(),
    "a lone surrogate as a key twice": b'{"\\ud83d": 1, "\\ud83d": 1}',
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_malformed_body_is_refused_with_the_reason(api: Api, database: Database, what: str) -> None:
    """400, never a 500 or a half-understood order; and the service continues."""
    answer = api.post_text("/orders", UNREADABLE[what])
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/malformed-request"
    assert problem["errors"][0]["detail"]
    assert "Traceback" not in answer.text
    assert database.value("SELECT count(*) FROM orders") == 0
    assert api.client.get("/orders").status_code == 200


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xef\xbb\xbf{}", "it begins with a byte order mark; send it without, at line 1 column 1"),
        (
            b"{'totalfee': 1}",
            "texts and names are in double quotes, not in single quotes, at line 1 column 2",
        ),
        (b"{\"totalfee\": '1'}", "texts and names are in double quotes, not in single quotes, at line 1"),
        ('{"calendar": “a”}'.encode(), "texts and names are in straight double quotes"),
        (b'{"totalfee": NaN}', "holds NaN, which is not JSON: send a number, or leave it out"),
        (b'{"totalfee": -Infinity}', "holds -Infinity, which is not JSON"),
        (b'{"totalfee": nan}', "it holds a word that is not JSON"),
        (b'{"totalfee": 1,}', "no comma may follow the last element"),
        (b'{"services": [{"id": 1}, ]}', "no comma may follow the last element"),
        (b'{"totalfee": 1 /* free */}', "JSON has no comments"),
        (b'{"totalfee": None}', "write true, false and null in small letters"),
        (b"{totalfee: 1}", "names of members are in double quotes, at line 1 column 2"),
        (b'{"id": 1, totalfee: 1}', "names of members are in double quotes"),
        (b'{"totalfee": +1}', "a number has no plus sign"),
        (b'{"totalfee": 007}', "a number has no leading zeros"),
        (b'{"totalfee": .5}', "a number has a digit before its decimal point"),
        (b'{"totalfee": 5.}', "a number has a digit after its decimal point"),
        (b'{"totalfee": 5,50}', "a number has a decimal point, not a comma"),
        (b"totalfee=1&calendar=a", "it is a form, not JSON"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        ('{"a": 1}'.encode("utf-16"), "is not UTF-8 but UTF-16"),
        (b'{"a": 1', "Expecting ',' delimiter, at line 1 column 8"),
    ],
)
def test_the_refusal_of_a_body_that_is_not_json_says_what_is_wrong_with_it(
    api: Api, body: bytes, reason: str
) -> None:
    """The mistakes that clients make, by name and place."""
    answer = api.post_text("/orders", body)
    assert answer.status_code == 400
    assert reason in answer.json()["errors"][0]["detail"]


def test_text_outside_ascii_is_read(api: Api) -> None:
    """A whole surrogate pair is a character like any other; here it is in an invalid name."""
    assert faulty_places(api.post_text("/orders", VALID % ', "calendar": "\\ud83d\\ude00"')) == ["#/calendar"]


@pytest.mark.parametrize(
    "content_type",
    [
        *("", "text/plain", "text/json", "application/jsonp", "application/merge-patch+json"),
        *("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml", "json"),
    ],
)
def test_a_body_of_another_media_type_is_refused(api: Api, content_type: str) -> None:
    """415, and the one to send is named."""
    answer = api.post_text("/orders", VALID % "", content_type)
    assert answer.status_code == 415
    assert answer.json()["type"] == "/problems/unsupported-media-type"
    assert answer.headers["accept"] == "application/json"


def test_a_body_without_a_content_type_is_refused(api: Api) -> None:
    """The server does not guess the media type of a body."""
    assert api.client.post("/orders", content=(VALID % "").encode()).status_code == 415


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_the_content_type_may_have_parameters_and_any_case(api: Api, content_type: str) -> None:
    """RFC 9110 allows both."""
    assert api.post_text("/orders", VALID % "", content_type).status_code == 201


def test_a_compressed_body_is_refused(api: Api) -> None:
    """A small one could decompress to a huge one."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert api.client.post("/orders", content=b"\x1f\x8b", headers=headers).status_code == 415


@pytest.mark.parametrize("known_length", [True, False], ids=["with its length", "in chunks"])
def test_a_body_that_is_too_large_is_refused(api: Api, *, known_length: bool) -> None:
    """413 above 512 KiB, with or without a Content-Length."""
    body = b" " * 1_100_000
    chunks = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    headers = {"Content-Type": "application/json"}
    answer = api.client.post("/orders", content=body if known_length else chunks, headers=headers)
    assert answer.status_code == 413
    assert answer.json()["type"] == "/problems/body-too-large"
    api.placed_order(at=NOON)


def test_an_unknown_query_parameter_on_a_create_is_refused(api: Api) -> None:
    """Nothing that a caller sends is silently ignored."""
    answer = api.client.post("/orders?calender=crew-1", json=order_body())
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["parameter"] == "calender"
