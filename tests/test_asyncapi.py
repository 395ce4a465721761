"""The contract of the notifications against itself, against the HTTP contract, and against what is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from contract.document import EVENTS, load
from contract.validation import Schemas, read_json
from tests.builders import later
from tests.steps import assign_all
from tests.subscribers import Feed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.drivers import Api

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

CONTRACT = load(EVENTS)
SCHEMAS = Schemas(CONTRACT)
MESSAGES = {one.get("name"): one for _, one in CONTRACT.target("#/components/messages").children()}


def faults(notification: Any) -> list[str]:
    """Say what about a notification is not as the message of its type is described."""
    payload = MESSAGES[notification["type"]].child("payload")
    assert payload is not None
    return SCHEMAS.faults(payload, notification)


def examples() -> list[Any]:
    """Collect the payloads of all examples."""
    return [
        example.get("payload")
        for message in MESSAGES.values()
        for example in message.members("examples").values()
    ]


def test_there_is_a_message_for_each_type_and_each_has_an_example() -> None:
    assert set(MESSAGES) == {"order.created", "order.updated", "order.deleted"}
    assert [example["type"] for example in examples()] == list(MESSAGES)


def test_every_channel_carries_every_message() -> None:
    for name, channel in CONTRACT.target("#/channels").children():
        assert {message.get("name") for message in channel.members("messages").values()} == set(MESSAGES), (
            name
        )
    sent = {
        o.value["channel"]["$ref"].rpartition("/")[2] for _, o in CONTRACT.target("#/operations").children()
    }
    assert sent == {name for name, _ in CONTRACT.target("#/channels").children()}


@pytest.mark.parametrize("example", examples(), ids=lambda example: example["type"])
def test_an_example_fits_its_message_and_no_other(example: Any) -> None:
    assert faults(example) == []
    for other in set(MESSAGES) - {example["type"]}:
        assert faults({**example, "type": other}), other
    assert faults({**example, "more": 1})
    assert faults({name: value for name, value in example.items() if name != "orderversion"})


def test_what_both_contracts_describe_is_described_alike() -> None:
    http = load().target("#/components/schemas").value
    own = {"OrderCreated", "OrderUpdated", "OrderDeleted"}
    schemas = CONTRACT.target("#/components/schemas").value
    assert {name: schema for name, schema in schemas.items() if name not in own} == {
        name: http[name] for name in schemas.keys() - own
    }


def test_what_is_sent_fits(api: Api, run: Run) -> None:
    for day in range(6):
        at = later(days=day, microseconds=day)
        order = api.placed_order(
            at=at, fee=day / 4, services=(123, 456, 789)[: 1 + day % 3], calendar=f"c-{day}"
        )
        if day % 2:
            api.client.patch(f"/orders/{order['id']}", json={"totalfee": 9_999_999_999.99, "calendar": None})
        if day % 3:
            api.client.delete(f"/orders/{order['id']}")
    api.client.put("/services/123", json={"name": 'Überprüfung "plus" \\ 📦'})
    api.placed_order(at=later(days=30), id=999_999_999_999)
    run(assign_all())
    sent = [read_json(notification) for notification in Feed.after(api).all()]
    assert {notification["type"] for notification in sent} == set(MESSAGES)
    assert [found for found in map(faults, sent) if found] == []


def test_the_contract_is_served_byte_for_byte(api: Api) -> None:
    answer = api.client.get("/asyncapi.yaml")
    assert (answer.content, answer.headers["Content-Type"]) == (EVENTS.read_bytes(), "application/yaml")
