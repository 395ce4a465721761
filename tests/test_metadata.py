"""``metadata``: up to 50 texts by keys, which the caller keeps with an order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import order_body
from tests.drivers import faulty_places

if TYPE_CHECKING:
    from tests.drivers import Api, Database

LARGEST = {f"{n:02}{'k' * 38}": "v" * 500 for n in range(50)}


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"source": "web"},
        {"Grund": "zwei\nZeilen\tund Tab"},
        {"ä ö": ""},
        {"[key]": "x", "a]b": "y"},
        LARGEST,
    ],
)
def test_an_order_keeps_its_metadata(api: Api, database: Database, metadata: dict[str, str]) -> None:
    """Each text as it was sent; and each can be looked up."""
    order = api.placed_order(metadata=metadata)
    assert order["metadata"] == metadata
    assert api.client.get(f"/orders/{order['id']}").json() == order
    assert {row["key"]: row["value"] for row in database.rows("SELECT * FROM order_metadata")} == metadata


@pytest.mark.parametrize(
    ("metadata", "pointer"),
    [
        ({"": "x"}, "#/metadata/"),
        ({"k" * 41: "x"}, f"#/metadata/{'k' * 41}"),
        ({" k": "x"}, "#/metadata/%20k"),
        ({"k\u200b": "x"}, "#/metadata/k%E2%80%8B"),
        ({"k": "v" * 501}, "#/metadata/k"),
        ({"k": "v\x01"}, "#/metadata/k"),
        ({"k": 7}, "#/metadata/k"),
        ({"k": None}, "#/metadata/k"),
        ({"k": {"nested": "x"}}, "#/metadata/k"),
        (LARGEST | {"one": "more"}, "#/metadata"),
        ([["k", "v"]], "#/metadata"),
        ("k=v", "#/metadata"),
    ],
)
def test_metadata_that_cannot_be_kept_is_refused(api: Api, metadata: Any, pointer: str) -> None:
    """Each fault is named by its key."""
    assert faulty_places(api.place_order(metadata=metadata)) == [pointer]


def test_a_patch_merges_metadata(api: Api) -> None:
    """RFC 7396: keys that it names are set, or removed by null; null in place of all removes all."""
    path = f"/orders/{api.placed_order(metadata={'a': '1', 'b': '2'})['id']}"
    for change, merged in (
        ({"b": "3", "c": ""}, {"a": "1", "b": "3", "c": ""}),
        ({"a": None, "unknown": None}, {"b": "3", "c": ""}),
        ({}, {"b": "3", "c": ""}),
        (None, {}),
    ):
        assert api.client.patch(path, json={"metadata": change}).json()["metadata"] == merged
    versions = api.client.get(path).json()["version"]
    assert versions == 4, "the empty patch changed nothing"


def test_a_put_replaces_metadata(api: Api) -> None:
    """Without it, none is left."""
    path = f"/orders/{api.placed_order(metadata={'a': '1', 'b': '2'})['id']}"
    answer = api.client.put(path, json=order_body(metadata={"c": "3"}))
    assert answer.json()["metadata"] == {"c": "3"}
    assert api.client.put(path, json=order_body()).json()["metadata"] == {}


def test_a_patch_that_would_leave_too_many_keys_is_refused(api: Api) -> None:
    """It is counted after the merge: one that removes as many as it adds is fine."""
    order = api.placed_order(metadata=LARGEST)
    path = f"/orders/{order['id']}"
    assert faulty_places(api.client.patch(path, json={"metadata": {"one": "more"}})) == ["#/metadata"]
    assert api.client.get(path).json() == order
    swap = {next(iter(LARGEST)): None, "one": "more"}
    assert len(api.client.patch(path, json={"metadata": swap}).json()["metadata"]) == 50


def test_a_deleted_order_leaves_no_metadata(api: Api, database: Database) -> None:
    """Nor one that moves: what is looked up has its present datetime."""
    path = f"/orders/{api.placed_order(metadata={'a': '1'})['id']}"
    api.client.patch(path, json={"datetime": "2031-01-01T00:00:00Z"})
    assert database.value("SELECT datetime::text FROM order_metadata") == "2031-01-01 00:00:00+00"
    api.client.delete(path)
    assert database.value("SELECT count(*) FROM order_metadata") == 0
