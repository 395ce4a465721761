"""The AsyncAPI contract against itself, the HTTP contract, and the notifications that are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from contract.checks.document import EVENTS, load, operations, parameters
from contract.checks.validation import Schemas, read_json, read_text
from tests.builders import later
from tests.contract_schemas import CONTRACT as HTTP
from tests.contract_schemas import SCHEMAS as HTTP_SCHEMAS
from tests.steps import assign_all
from tests.subscribers import Feed
from tests.webhook_receiver import Answer, Receiver
from tests.webhook_steps import deliver, subscribe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from contract.checks.document import Place
    from tests.drivers import Api

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

CONTRACT = load(EVENTS)
SCHEMAS = Schemas(CONTRACT)
MESSAGES = dict(CONTRACT.target("#/components/messages").children())
CHANGES = {"order.created", "order.updated", "order.cancelled", "order.reinstated", "order.deleted"}
ONLY_POSTED = {"webhook.disabled", "webhook.test"}
EXAMPLES = [
    (name, example) for name, message in MESSAGES.items() for example in message.members("examples").values()
]


def messages_of(channel: str) -> dict[str, Place]:
    """Return a channel's messages by type."""
    messages = CONTRACT.target(f"#/channels/{channel}").members("messages").values()
    return {message.get("name"): message for message in messages}


def faults(message: Place, payload: Any, headers: Any = None) -> list[str]:
    """Return how a notification, and its headers if any, deviate from the description of its message."""
    reasons = []
    for part, value in (("payload", payload), ("headers", headers)):
        schema = message.child(part)
        if schema is None:
            assert value is None, f"no {part} are described"
        else:
            reasons += SCHEMAS.faults(schema, value)
    return reasons


def test_every_channel_carries_all_change_types_and_webhooks_carry_webhook_events_too() -> None:
    for name, _ in CONTRACT.target("#/channels").children():
        expected = CHANGES | ONLY_POSTED if name == "webhook" else CHANGES
        assert messages_of(name).keys() == expected, name
    sent = {
        o.value["channel"]["$ref"].rpartition("/")[2]: len(o.value["messages"])
        for _, o in CONTRACT.target("#/operations").children()
    }
    assert sent == {name: len(messages_of(name)) for name, _ in CONTRACT.target("#/channels").children()}
    used = {
        message.pointer
        for name, _ in CONTRACT.target("#/channels").children()
        for message in messages_of(name).values()
    }
    assert used == {message.pointer for message in MESSAGES.values()}


def test_every_message_has_an_example_of_its_type() -> None:
    assert [(name, example.get("payload")["type"]) for name, example in EXAMPLES] == [
        (name, message.get("name")) for name, message in MESSAGES.items()
    ]


OPTIONAL = {"actor", "reason"}
"""Members of a notification that it may lack."""


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=MESSAGES)
def test_an_example_fits_its_message_and_no_other(name: str, example: Place) -> None:
    payload, headers = example.get("payload"), example.get("headers")
    message = MESSAGES[name]
    assert faults(message, payload, headers) == []
    for other in CHANGES | ONLY_POSTED:
        assert (faults(message, {**payload, "type": other}, headers) == []) is (other == payload["type"])
    assert faults(message, {**payload, "more": 1}, headers)
    for member in payload:
        without = faults(message, {n: v for n, v in payload.items() if n != member}, headers)
        assert (without == []) is (member in OPTIONAL), member
    if headers is not None:
        assert headers["webhook-id"] == payload["id"]
        for header in headers:
            assert faults(message, payload, {n: v for n, v in headers.items() if n != header}), header


def test_both_contracts_describe_shared_schemas_the_same_way() -> None:
    http = HTTP.target("#/components/schemas").value
    own = {
        "OrderCreated",
        "OrderUpdated",
        "OrderCancelled",
        "OrderReinstated",
        "OrderDeleted",
        "WebhookHeaders",
    }
    schemas = CONTRACT.target("#/components/schemas").value
    assert {name: schema for name, schema in schemas.items() if name not in own} == {
        name: http[name] for name in schemas.keys() - own
    }


def test_the_headers_of_webhooks_are_the_parameters_of_the_http_contracts_webhooks() -> None:
    own = CONTRACT.target("#/components/schemas/WebhookHeaders")
    for path, _, operation in operations(HTTP, "webhooks"):
        headers = parameters(HTTP, path, operation, "webhooks")
        assert {name: one.get("schema") for (_, name), one in headers.items()} == own.get("properties"), path
        assert [name for (_, name), one in headers.items() if one.get("required")] == own.get("required"), (
            path
        )


def test_every_sent_notification_matches_the_asyncapi_contract(api: Api, run: Run) -> None:
    for day in range(6):
        at = later(days=day, milliseconds=day)
        order = api.placed_order(
            at=at, fee=day / 4, services=(123, 456, 789)[: 1 + day % 3], calendar=f"c-{day}"
        )
        if day % 2:
            api.client.patch(
                f"/orders/{order['id']}", json={"totalfee": 9_999_999_999.99, "calendar": "default"}
            )
        if day % 2:
            api.client.post(f"/orders/{order['id']}/cancel", json={"reason": 'Überprüfung "plus"'})
        if day == 3:
            api.client.post(f"/orders/{order['id']}/reinstate")
        if day % 3:
            api.client.delete(f"/orders/{order['id']}")
    api.client.put("/services/123", json={"name": 'Überprüfung "plus" \\ 📦'})
    api.placed_order(at=later(days=30), id=999_999_999_999)
    run(assign_all())
    sent = [read_json(notification) for notification in Feed.after(api).all()]
    assert {notification["type"] for notification in sent} == CHANGES
    for channel in ("feed", "stream", "redis"):
        of_type = messages_of(channel)
        assert [wrong for one in sent if (wrong := faults(of_type[one["type"]], one))] == []


def test_webhook_requests_match_both_contracts_headers_included(api: Api, run: Run) -> None:
    """The AsyncAPI channel's message and the HTTP contract's webhook."""
    with Receiver() as receiver, Receiver() as disabled:
        webhook = subscribe(api, receiver.url)
        subscribe(api, receiver.url, types=["webhook.disabled"])
        disabled.answer = lambda _: Answer(410)
        subscribe(api, disabled.url, types=["order.deleted"])
        order = api.placed_order(fee=0.1, services=(123, 456))["id"]
        api.client.patch(f"/orders/{order}", json={"totalfee": 9_999_999_999.99, "calendar": "north"})
        api.client.post(f"/orders/{order}/cancel")
        api.client.post(f"/orders/{order}/reinstate", headers={"Change-Reason": "Back%20again"})
        api.client.delete(f"/orders/{order}")
        api.client.post(f"/webhooks/{webhook['id']}/test")
        # Once more with two signatures, while the old secret still signs.
        run(deliver())
        api.client.post(f"/webhooks/{webhook['id']}/secret/rotation", json={})
        api.client.post(f"/webhooks/{webhook['id']}/replay", json={"after": 0})
        run(deliver())
        received = receiver.received
    assert {one.event["type"] for one in received} == CHANGES | ONLY_POSTED
    assert {len(one.headers["webhook-signature"].split()) for one in received} == {1, 2}
    of_type = messages_of("webhook")
    own = CONTRACT.target("#/components/schemas/WebhookHeaders").members("properties")
    for one in received:
        payload = read_json(one.body.decode())
        # Those that are required are missed below.
        present = own.keys() & one.headers.keys()
        headers = {name: read_text(own[name], one.headers[name]) for name in present}
        assert faults(of_type[payload["type"]], payload, headers) == [], payload
        assert faults_over_http(one.headers, payload) == [], payload


def faults_over_http(headers: Mapping[str, str], payload: Any) -> list[str]:
    """Return how a request deviates from the webhook of its type in the HTTP contract."""
    name = {"webhook.disabled": "webhookDisabled", "webhook.test": "webhookTest"}.get(
        payload["type"], "orderChange"
    )
    ((path, _, operation),) = [one for one in operations(HTTP, "webhooks") if one[0] == name]
    reasons = []
    for (_, header), parameter in parameters(HTTP, path, operation, "webhooks").items():
        schema = parameter.child("schema")
        assert schema is not None
        if parameter.get("required") or header in headers:
            reasons += HTTP_SCHEMAS.faults(schema, read_text(schema, headers[header]))
    body = operation.child("requestBody")
    assert body is not None
    (content_type,) = body.members("content")
    assert headers["content-type"].split(";")[0] == content_type
    schema = body.members("content")[content_type].child("schema")
    assert schema is not None
    return reasons + HTTP_SCHEMAS.faults(schema, payload)


def test_the_asyncapi_contract_is_served_byte_for_byte(api: Api) -> None:
    answer = api.client.get("/asyncapi.yaml")
    assert (answer.content, answer.headers["Content-Type"]) == (EVENTS.read_bytes(), "application/yaml")
