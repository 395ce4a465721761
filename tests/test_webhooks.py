"""Webhooks over HTTP: create, read, change, delete, rotate secrets."""

from __future__ import annotations

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from api.http.idempotency_keys import IdempotencyKey
from api.webhooks.bodies import NewWebhook, SecretRotation
from api.webhooks.commands import create_webhook, delete_webhook, rotate_secret, rotation_operation
from api.webhooks.errors import TooManyWebhooksError, WebhookNotFoundError
from contract.checks.validation import read_json
from shared.database.statements import execute
from tests.builders import order_body
from tests.contract_schemas import CONTRACT, SCHEMAS
from tests.webhook_steps import subscribe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import httpx

    from tests.drivers import Api, Database

URL = "https://orders.example/changes"


def matches_contract(answer: httpx.Response, schema: str) -> bool:
    """Whether an answer matches the contract."""
    faults = SCHEMAS.faults(CONTRACT.target(f"#/components/schemas/{schema}"), read_json(answer.text))
    assert faults == []
    return True


def test_a_webhook_is_created_with_a_secret_that_is_shown_once(api: Api) -> None:
    """32 random bytes, in the form that libraries read."""
    answer = api.client.post("/webhooks", json={"url": URL, "description": "Planung für Süd"})
    assert answer.status_code == 201
    assert matches_contract(answer, "WebhookWithSecret")
    assert answer.headers["cache-control"] == "no-store"
    webhook = answer.json()
    secret = webhook.pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    read = api.client.get(answer.headers["location"])
    assert matches_contract(read, "Webhook")
    assert read.json() == webhook
    assert secret not in api.client.get("/webhooks").text


def test_a_repeated_create_with_a_key_returns_the_same_webhook_and_secret(
    api: Api, database: Database
) -> None:
    """So a lost answer does not lose the webhook."""
    headers = {"Idempotency-Key": "k1"}
    first, again = (api.client.post("/webhooks", json={"url": URL}, headers=headers) for _ in range(2))
    assert (first.json(), first.status_code) == (again.json(), again.status_code)
    assert again.headers["idempotency-replayed"] == "true"
    assert database.value("SELECT count(*) FROM webhook") == 1
    other = api.client.post("/webhooks", json={"url": URL + "/x"}, headers=headers)
    assert other.json()["type"] == "/problems/idempotency-key-reused"


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["#/url"]),
        ({"url": 5}, ["#/url"]),
        ({"url": "https://u:p@orders.example/"}, ["#/url"]),
        ({"url": "http://169.254.169.254/latest/meta-data/"}, ["#/url"]),
        ({"url": "http://2130706433/"}, ["#/url"]),
        ({"url": "https://10.0.0.1/"}, ["#/url"]),
        ({"url": "https://orders.example:22/"}, ["#/url"]),
        ({"url": URL, "types": ["order.exploded"]}, ["#/types"]),
        ({"url": URL, "types": ["order.created", "order.created"]}, ["#/types"]),
        ({"url": URL, "types": "order.created"}, ["#/types"]),
        ({"url": URL, "calendars": ["no spaces"]}, ["#/calendars"]),
        ({"url": URL, "calendars": [[]]}, ["#/calendars"]),
        ({"url": URL, "description": "a\nb"}, ["#/description"]),
        ({"url": URL, "description": "x" * 501}, ["#/description"]),
        ({"url": URL, "secret": "whsec_mine"}, ["#/secret"]),
        ({"types": 1, "enabled": True}, ["#/enabled", "#/types", "#/url"]),
    ],
)
def test_an_invalid_webhook_is_refused_with_every_fault(
    api: Api, database: Database, body: dict[str, Any], pointers: list[str]
) -> None:
    """A refused webhook is not stored."""
    answer = api.client.post("/webhooks", json=body)
    assert answer.status_code == 422, answer.text
    assert sorted(fault["pointer"] for fault in answer.json()["errors"]) == pointers
    assert database.value("SELECT count(*) FROM webhook") == 0


def test_no_more_webhooks_can_be_created_than_the_deployment_allows(
    run: Callable[[Coroutine[Any, Any, Any]], Any], database: Database, setting: Callable[..., None]
) -> None:
    """Also by concurrent requests. A deleted one makes room."""
    setting(max_webhooks=5)

    async def create_many(count: int) -> list[int]:
        answers = await asyncio.gather(
            *(create_webhook(NewWebhook(url=URL), None) for _ in range(count)), return_exceptions=True
        )
        assert {type(one) for one in answers if isinstance(one, Exception)} <= {TooManyWebhooksError}
        return [json.loads(one.text)["id"] for one in answers if not isinstance(one, BaseException)]

    first, *_ = created = run(create_many(12))
    assert len(created) == 5
    assert run(create_many(3)) == []
    run(delete_webhook(int(first)))
    assert len(run(create_many(3))) == 1
    assert database.value("SELECT count(*) FROM webhook WHERE deleted_at IS NULL") == 5


def test_one_webhook_too_many_is_refused_over_http_whoever_asks_at_the_same_time(api: Api) -> None:
    """A hundred, unless the deployment says otherwise. A repeat with the key of a stored one is answered."""
    with ThreadPoolExecutor(16) as threads:
        answers = list(
            threads.map(
                lambda number: api.client.post(
                    "/webhooks", json={"url": URL}, headers={"Idempotency-Key": f"try-{number}"}
                ),
                range(110),
            )
        )
    refused = [answer for answer in answers if answer.status_code != 201]
    assert len(refused) == 10
    assert all(matches_contract(answer, "TooManyWebhooks") for answer in refused)
    number = next(number for number, answer in enumerate(answers) if answer.status_code == 201)
    again = api.client.post("/webhooks", json={"url": URL}, headers={"Idempotency-Key": f"try-{number}"})
    assert (again.status_code, again.text) == (201, answers[number].text)


def test_webhooks_are_listed_page_by_page(api: Api) -> None:
    """They are sorted by id, and each is listed once."""
    made = [subscribe(api, f"{URL}/{number}")["id"] for number in range(5)]
    assert [webhook["id"] for webhook in api.every_item("/webhooks?limit=2")] == made
    assert matches_contract(api.client.get("/webhooks?limit=2"), "WebhookList")


def test_a_patch_changes_only_the_named_parts_of_a_webhook(api: Api) -> None:
    """Other members stay as they were."""
    webhook = subscribe(api, URL, types=["order.created"], description="one")
    path = f"/webhooks/{webhook['id']}"
    answer = api.client.patch(path, json={"calendars": ["a"], "description": ""})
    assert matches_contract(answer, "Webhook")
    changed = answer.json()
    assert (changed["url"], changed["types"], changed["calendars"]) == (URL, ["order.created"], ["a"])
    assert changed["description"] == ""
    assert changed["updated_at"] > webhook["updated_at"]
    for wrong in (
        {},
        {"enabled": 1},
        {"enabled": None},
        {"url": None},
        {"url": "http://[::1]/"},
        {"id": "9"},
    ):
        assert api.client.patch(path, json=wrong).status_code == 422, wrong


def test_a_disabled_webhook_shows_when_and_why_it_was_disabled_until_it_is_enabled(api: Api) -> None:
    """Here by the caller's own request; a second time changes nothing."""
    path = f"/webhooks/{subscribe(api, URL)['id']}"
    first = api.client.patch(path, json={"enabled": False})
    assert matches_contract(first, "Webhook")
    assert first.json()["disabled"]["reason"] == "caller"
    again = api.client.patch(path, json={"enabled": False}).json()
    assert again["disabled"] == first.json()["disabled"]
    for request in (f"{path}/test", f"{path}/replay"):
        refused = api.client.post(request, json={})
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/webhook-disabled")
    assert api.client.patch(path, json={"enabled": True}).json()["disabled"] is None


def test_no_secret_of_a_deleted_webhook_remains_in_the_database(api: Api, database: Database) -> None:
    """Neither in its own rows nor in answers kept for repeated requests; others' secrets remain."""
    headers = {"Idempotency-Key": "k1"}
    secrets, ids = [], []
    for url in (URL, URL + "/other"):
        made = api.client.post("/webhooks", json={"url": url}, headers={"Idempotency-Key": url}).json()
        path = f"/webhooks/{made['id']}"
        rotated = api.client.post(f"{path}/secret/rotation", json={}, headers=headers).json()
        secrets.append((made["secret"], rotated["secret"]))
        ids.append(made["id"])
        assert api.client.post(f"{path}/secret/rotation", json={}, headers=headers).json() == rotated
    api.client.post("/orders", json=order_body(), headers=headers)
    assert api.client.delete(f"/webhooks/{ids[0]}").status_code == 204
    kept = database.value(
        """
        SELECT (SELECT string_agg(answer, ' ') FROM idempotency_key)
            || (SELECT string_agg(secret, ' ') FROM webhook_secret)
        """
    )
    assert [secret in kept for secret in secrets[0]] == [False, False]
    assert [secret in kept for secret in secrets[1]] == [True, True]


def test_a_deleted_webhook_is_gone_for_every_operation(api: Api) -> None:
    """Its secrets are deleted too."""
    path = f"/webhooks/{subscribe(api, URL)['id']}"
    assert api.client.delete(path).status_code == 204
    for method, rest, body in (
        ("GET", "", None),
        ("DELETE", "", None),
        ("PATCH", "", {"enabled": True}),
        ("GET", "/deliveries", None),
        ("GET", "/deliveries/1", None),
        ("GET", "/missed", None),
        ("POST", "/test", None),
        ("POST", "/replay", {}),
        ("POST", "/secret/rotation", {}),
    ):
        assert api.client.request(method, path + rest, json=body).status_code == 404, (method, rest)
    assert api.client.get("/webhooks").json()["items"] == []


def test_the_old_secret_of_a_webhook_stays_valid_for_a_day_or_the_requested_time(
    api: Api, database: Database
) -> None:
    """From 0 to 7 days; 0 when the old one leaked."""
    webhook = subscribe(api, URL)
    path = f"/webhooks/{webhook['id']}/secret/rotation"
    answer = api.client.post(path, json={})
    assert matches_contract(answer, "NewSecret")
    until = datetime.fromisoformat(answer.json()["old_valid_until"])
    assert abs(until - datetime.now(UTC) - timedelta(days=1)) < timedelta(minutes=1)
    assert answer.json()["secret"] != webhook["secret"]
    leaked = api.client.post(path, json={"old_valid_for": 0})
    assert matches_contract(leaked, "NewSecret")
    assert leaked.json()["old_valid_until"] is None
    assert (
        database.value("SELECT count(*) FROM webhook_secret WHERE secret = $1", answer.json()["secret"]) == 0
    )
    assert api.client.post(path, json={"old_valid_for": 604_800}).status_code == 200
    for wrong in (604_801, -1, 0.5, "1", True):
        assert api.client.post(path, json={"old_valid_for": wrong}).status_code == 422, wrong
    for _ in range(12):
        api.client.post(path, json={})
    assert database.value("SELECT count(*) FROM webhook_secret") == 8, "the header stays short"


def test_a_secret_rotation_repeated_with_a_key_returns_the_same_secret(api: Api) -> None:
    """Otherwise a lost answer would cost a secret that a receiver still uses."""
    path = f"/webhooks/{subscribe(api, URL)['id']}/secret/rotation"
    first, again = (api.client.post(path, json={}, headers={"Idempotency-Key": "r"}).json() for _ in range(2))
    assert first == again
    other = f"/webhooks/{subscribe(api, URL)['id']}/secret/rotation"
    assert api.client.post(other, json={}, headers={"Idempotency-Key": "r"}).json() != first


def test_deliveries_and_missed_changes_are_listed_as_the_contract_says(api: Api) -> None:
    """Also where there are no items, and with cursors of other lists."""
    webhook = subscribe(api, URL)
    path = f"/webhooks/{webhook['id']}"
    test = api.client.post(f"{path}/test")
    assert matches_contract(test, "Delivery")
    assert matches_contract(api.client.get(test.headers["location"]), "Delivery")
    assert matches_contract(api.client.get(f"{path}/deliveries"), "DeliveryList")
    assert matches_contract(api.client.get(f"{path}/missed"), "MissedList")
    assert api.client.get(f"{path}/missed").json()["items"] == []
    assert matches_contract(api.client.post(f"{path}/replay", json={}), "Replayed")
    for wrong in ("status=lost", "status=pending&status=pending", "cursor=WyJhIl0", "limit=0", "after=1"):
        assert api.client.get(f"{path}/deliveries?{wrong}").status_code == 400, wrong
    assert api.client.get(f"{path}/missed?reason=delivered").status_code == 400
    assert api.client.get(f"{path}/deliveries/x").status_code == 400
    assert api.client.get(f"{path}/deliveries/99").status_code == 404
    assert api.client.get("/webhooks/0").status_code == 400


def test_deleting_a_webhook_and_repeating_a_secret_rotation_never_deadlock(
    api: Api, database: Database, run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    """Both wait for a lock, in the order that could deadlock; the repeat reuses an expired key's row."""
    webhook_id = int(subscribe(api, URL)["id"])

    def key() -> IdempotencyKey:
        return IdempotencyKey("anyone", rotation_operation(webhook_id), "k1", b"1" * 32)

    async def queue() -> list[Any]:
        await rotate_secret(webhook_id, SecretRotation(), key())
        await execute("UPDATE idempotency_key SET created_at = now() - interval '25 hours'")
        holder = await asyncpg.connect(database.url)
        try:
            async with holder.transaction():
                await holder.execute("SELECT FROM webhook FOR UPDATE")
                waiting = []
                for command in (
                    delete_webhook(webhook_id),
                    rotate_secret(webhook_id, SecretRotation(), key()),
                ):
                    waiting.append(asyncio.create_task(command))
                    await _until_waiting(holder, len(waiting))
        finally:
            await holder.close()
        return await asyncio.gather(*waiting, return_exceptions=True)

    deleted, rotated = run(queue())
    assert deleted is None
    assert isinstance(rotated, WebhookNotFoundError)


async def _until_waiting(holder: Any, count: int) -> None:
    """Wait until so many sessions wait for locks."""
    waiting = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    async with asyncio.timeout(10):
        while await holder.fetchval(waiting) < count:
            await asyncio.sleep(0.01)
            await holder.execute("SELECT pg_stat_clear_snapshot()")
