"""OMS_SECRET_KEY: webhook secrets and answers kept for an Idempotency-Key are encrypted in the database."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from shared.secret_keys import SecretKeys, UnreadableSecretError, make_secret_key, read_secret_keys
from tests.builders import later, order_body
from tests.processes import run_command
from tests.serving import serving
from tests.webhook_steps import deliver, deliveries, make_due, subscribe

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from tests.drivers import Api, Database
    from tests.webhook_receiver import Receiver

Run = Callable[[Coroutine[Any, Any, Any]], Any]

FIRST, SECOND = make_secret_key(), make_secret_key()
FIRST_ID, SECOND_ID = read_secret_keys(f"{FIRST},{SECOND}").ids
URL = "http://127.0.0.1:9999/hook"


@pytest.fixture(scope="module")
def _keyed_server(postgres_url: str, redis_url: str) -> Iterator[Api]:
    with serving(database=postgres_url, redis=redis_url, OMS_SECRET_KEY=FIRST) as (api, _):
        yield api


@pytest.fixture
def keyed(_keyed_server: Api, database: Database) -> Api:
    """An API with the first key, on the same database as ``api``, which has none."""
    database.add_services()
    return _keyed_server


@pytest.fixture(autouse=True)
def _without_a_trace(database: Database) -> Iterator[None]:
    """Leave nothing encrypted: an API that a later test starts without the key would refuse to."""
    yield
    database.clean()


def stored_text(database: Database) -> str:
    """Return all that the database keeps of secrets and answers."""
    return str(
        database.rows(
            "SELECT secret AS text FROM webhook_secret UNION ALL SELECT answer FROM idempotency_key"
        )
    )


def posted(api: Api, path: str, body: Any, key: str = "try-1") -> httpx.Response:
    """Post a body with an Idempotency-Key."""
    return api.client.post(path, json=body, headers={"Idempotency-Key": key})


def rewrite(database: Database, keys: str) -> tuple[int, str, str]:
    """Run the command that rewrites everything; return its exit status and what it printed."""
    done = run_command("oms", "secret-key", "rewrite", database=database.url, OMS_SECRET_KEY=keys)
    return done.returncode, done.stdout, done.stderr


# --- the setting and the cipher -----------------------------------------------------------------------


def test_a_value_is_read_only_in_its_row_and_unchanged() -> None:
    """Moved to another row, changed in any byte, or under a key that is missing: each is refused."""
    keys, others = read_secret_keys(f"{FIRST},{SECOND}"), read_secret_keys(SECOND)
    value = keys.encrypt("whsec_é", ("webhook_secret", "1", "2"))
    assert keys.decrypt(value, ("webhook_secret", "1", "2")) == "whsec_é"
    assert keys.encrypt("whsec_é", ("webhook_secret", "1", "2")) != value
    for row in (("webhook_secret", "1", "3"), ("webhook_secret", "12"), ("webhook_secret", "1", "2", "")):
        with pytest.raises(UnreadableSecretError, match="moved"):
            keys.decrypt(value, row)
    with pytest.raises(UnreadableSecretError, match=f"key {FIRST_ID}, which OMS_SECRET_KEY lacks"):
        others.decrypt(value, ("webhook_secret", "1", "2"))
    data = bytearray(base64.b64decode(value.rsplit(":", 1)[1]))
    for place in range(len(data)):
        data[place] ^= 1
        changed = f"enc1:{FIRST_ID}:{base64.b64encode(data).decode()}"
        with pytest.raises(UnreadableSecretError, match="changed"):
            keys.decrypt(changed, ("webhook_secret", "1", "2"))
        data[place] ^= 1
    for broken in (f"enc1:{FIRST_ID}:", f"enc1:{FIRST_ID}:é", f"enc1:{FIRST_ID}"):
        with pytest.raises(UnreadableSecretError):
            keys.decrypt(broken, ("webhook_secret", "1", "2"))


def test_keys_are_read_in_base64_and_hexadecimal_and_anything_else_is_refused() -> None:
    """A short, repeated or patterned key protects nothing, so the process does not start with it."""
    key = base64.b64decode(FIRST)
    urlsafe = base64.urlsafe_b64encode(key).decode()
    for text in (FIRST, key.hex(), key.hex().upper(), urlsafe, f"  {FIRST}\n"):
        assert read_secret_keys(text) == SecretKeys((key,), encrypts=True)
    assert read_secret_keys("") == SecretKeys()
    assert read_secret_keys(f"plain,{FIRST}") == SecretKeys((key,), encrypts=False)
    assert read_secret_keys(f"{FIRST}\n{SECOND}\n").ids == (FIRST_ID, SECOND_ID)
    patterned = base64.b64encode(b"0123456789" * 3 + b"01").decode()
    for text, fault in (
        ("secret", "32 random bytes"),
        (base64.b64encode(key[:31]).decode(), "32 random bytes"),
        (key.hex()[:62], "32 random bytes"),
        (f"{FIRST},plain", "32 random bytes"),
        (patterned, "can't be random"),
        (f"{FIRST},{key.hex()}", "twice"),
        ("plain", "must be followed"),
    ):
        with pytest.raises(ValueError, match=fault):
            read_secret_keys(text)


# --- the service --------------------------------------------------------------------------------------


def test_secrets_and_answers_are_encrypted_and_everything_works_as_without(
    keyed: Api, database: Database, receiver: Receiver, run: Run, *, setting: Callable[..., None]
) -> None:
    """Creates, batches, rotations and keys are repeated from ciphertext; deliveries are signed with it."""
    setting(secret_key=FIRST)
    requests = [
        ("/webhooks", {"url": receiver.url}),
        ("/orders", order_body()),
        ("/orders/batch", {"orders": [order_body(at=later(days=n)) for n in (1, 2)]}),
        ("/services", {"name": "Cleaning"}),
    ]
    answers = [posted(keyed, path, body) for path, body in requests]
    webhook = answers[0].json()
    requests.append((f"/webhooks/{webhook['id']}/secret/rotation", {}))
    answers.append(posted(keyed, *requests[-1]))
    for request, first in zip(requests, answers, strict=True):
        repeat = posted(keyed, *request)
        assert (repeat.status_code, repeat.content) == (first.status_code, first.content)
        assert repeat.headers["idempotency-replayed"] == "true"
        assert repeat.headers.get("etag") == first.headers.get("etag")
    assert posted(keyed, "/orders", order_body(fee=101)).status_code == 422
    secrets = [webhook["secret"], answers[-1].json()["secret"]]
    text = stored_text(database)
    assert "whsec" not in text
    assert "totalfee" not in text
    assert database.value("SELECT count(*) FROM webhook_secret WHERE secret LIKE 'enc1:%'") == 2
    assert run(deliver()) == 3
    assert {d["status"] for d in deliveries(keyed, webhook)} == {"delivered"}
    for received in receiver.received:
        assert all(received.is_signed_with(secret) for secret in secrets)
    assert keyed.client.delete(f"/webhooks/{webhook['id']}").status_code == 204
    assert database.value("SELECT count(*) FROM idempotency_key WHERE operation ILIKE '%webhook%'") == 0


def test_rows_in_plain_text_go_on_working_and_are_encrypted_by_the_command(
    api: Api,
    database: Database,
    receiver: Receiver,
    run: Run,
    *,
    setting: Callable[..., None],
    redis_url: str,
) -> None:
    """Then under a newer key, and in the end in plain text again; each repeat is the first answer."""
    webhook = posted(api, "/webhooks", {"url": receiver.url}).json()
    order = posted(api, "/orders", order_body())
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    for number in random.Random(seed).sample(range(1000), 120):
        posted(api, "/services", {"name": f"Cleaning {number}"}, key=f"service-{number}")
    steps = ((FIRST, FIRST_ID), (f"{SECOND},{FIRST}", SECOND_ID), (f"plain,{SECOND}", None))
    for keys, newest in steps:
        setting(secret_key=keys)
        with serving(database=database.url, redis=redis_url, OMS_SECRET_KEY=keys) as (keyed, _):
            # Before the command too: an older key decrypts, and so does none.
            assert posted(keyed, "/orders", order_body()).content == order.content
            status, printed, errors = rewrite(database, keys)
            assert status == 0, errors
            under = f"under the key {newest}" if newest else "in plain text"
            assert printed.splitlines() == [
                f"webhook secrets: 1 rewritten {under}, 0 were already",
                f"answers kept for an Idempotency-Key: 122 rewritten {under}, 0 were already",
            ]
            assert " 0 rewritten" in rewrite(database, keys)[1]
            assert posted(keyed, "/orders", order_body()).content == order.content
            assert posted(keyed, "/webhooks", {"url": receiver.url}).json() == webhook
        receiver.received.clear()
        assert api.client.post(f"/webhooks/{webhook['id']}/test").status_code == 202
        assert run(deliver()) >= 1
        assert receiver.received[-1].is_signed_with(webhook["secret"])
        shown = run_command("oms", "secret-key", "status", database=database.url, OMS_SECRET_KEY=keys)
        assert shown.returncode == 0
        assert ("in plain text" in shown.stdout) == (newest is None)
    assert webhook["secret"] in stored_text(database)


def test_without_the_key_nothing_is_sent_or_carried_out_twice_and_nothing_is_lost(
    api: Api, keyed: Api, database: Database, receiver: Receiver, *, run: Run, setting: Callable[..., None]
) -> None:
    """Processes that started before the key was given: clear failures, and all is well once they have it."""
    webhook = subscribe(keyed, receiver.url)
    first = posted(keyed, "/orders", order_body())
    repeat = posted(api, "/orders", order_body())
    assert repeat.status_code == 503
    assert repeat.json()["type"] == "/problems/unavailable"
    assert "not carried out again" in repeat.json()["detail"]
    assert database.counts()["orders"] == 1
    for _ in range(12):  # more often than the retry schedule is long
        assert run(deliver()) == 1
        assert run(deliver()) == 0, "it waits"
        make_due(database)
    (delivery,) = deliveries(api, webhook)
    assert (delivery["status"], len(delivery["attempts"])) == ("retrying", 12)
    assert f"encrypted under the key {FIRST_ID}" in delivery["attempts"][0]["error"]
    assert not receiver.received
    assert api.client.get(f"/webhooks/{webhook['id']}").json()["failing_since"] is None
    setting(secret_key=FIRST)
    make_due(database)
    assert run(deliver()) == 1
    assert receiver.received[0].is_signed_with(webhook["secret"])
    assert deliveries(api, webhook)[0]["status"] == "delivered"
    assert posted(keyed, "/orders", order_body()).content == first.content


def test_a_lost_key_is_replaced_by_rotating_the_secrets_of_webhooks(
    api: Api, keyed: Api, database: Database, receiver: Receiver, *, run: Run, setting: Callable[..., None]
) -> None:
    """At once, as what the old secret would sign can't be signed; a webhook can also be deleted."""
    webhook, other = subscribe(keyed, receiver.url), subscribe(keyed, URL)
    setting(secret_key=SECOND)
    status, printed, errors = rewrite(database, SECOND)
    assert status == 1
    assert "2 unreadable" in printed
    assert FIRST_ID in errors
    path = f"/webhooks/{webhook['id']}"
    rotated = api.client.post(f"{path}/secret/rotation", json={"old_valid_for": 0}).json()
    assert api.client.delete(f"/webhooks/{other['id']}").status_code == 204
    assert api.client.post(f"{path}/test").status_code == 202
    assert run(deliver()) == 1
    assert receiver.received[0].is_signed_with(rotated["secret"])


def test_a_value_that_was_moved_to_another_row_is_not_used(
    keyed: Api, database: Database, receiver: Receiver, run: Run, *, setting: Callable[..., None]
) -> None:
    """Who can write to the database, but has no key, can't make one webhook's secret another's."""
    setting(secret_key=FIRST)
    webhook = subscribe(keyed, receiver.url)
    subscribe(keyed, URL)
    database.rows(
        "UPDATE webhook_secret SET secret = (SELECT secret FROM webhook_secret WHERE webhook_id <> $1) "
        "WHERE webhook_id = $1",
        int(webhook["id"]),
    )
    posted(keyed, "/orders", order_body(), key="one")
    posted(keyed, "/orders", order_body(at=later(days=1)), key="two")
    database.rows(
        "UPDATE idempotency_key SET answer = (SELECT answer FROM idempotency_key WHERE key = 'two') "
        "WHERE key = 'one'"
    )
    assert posted(keyed, "/orders", order_body(), key="one").status_code == 503
    assert run(deliver()) >= 1
    assert "moved" in deliveries(keyed, webhook)[0]["attempts"][0]["error"]
    assert not receiver.received


@pytest.mark.parametrize("module", ["api.server", "worker.main"])
def test_a_process_that_lacks_a_key_in_use_does_not_start(
    keyed: Api, database: Database, module: str
) -> None:
    """It names the key by its id, and neither signs wrongly nor stores plain text beside the others."""
    subscribe(keyed, URL)
    for settings in ({}, {"OMS_SECRET_KEY": SECOND}):
        done = run_command(module, database=database.url, **settings)
        assert done.returncode == 1
        assert (
            f"OMS_SECRET_KEY lacks a key under which secrets in this database are encrypted: {FIRST_ID}"
            in (done.stderr)
        )


def test_the_doctor_says_which_key_is_missing(keyed: Api, database: Database) -> None:
    """In a sentence with what to do."""
    subscribe(keyed, URL)
    done = run_command("oms", "doctor", database=database.url)
    assert done.returncode != 0
    assert f"encrypted under {FIRST_ID}, which OMS_SECRET_KEY lacks" in " ".join(done.stdout.split())
    assert "which OMS_SECRET_KEY lacks" not in (
        run_command("oms", "doctor", database=database.url, OMS_SECRET_KEY=FIRST).stdout
    )


def test_the_file_with_the_keys_is_read_in_place_of_the_variable(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    """As systemd and Compose pass secrets. Both at once, and an empty file, are refused."""
    file = tmp_path / "key"
    file.write_text(f"{FIRST}\n{SECOND}\n")
    with serving(database=database.url, redis=redis_url, OMS_SECRET_KEY_FILE=str(file)) as (api, _):
        subscribe(api, URL)
        assert FIRST_ID in stored_text(database)

    def refusal(**settings: str) -> str:
        done = run_command(
            "shared.settings", database=database.url, OMS_SECRET_KEY_FILE=str(file), **settings
        )
        assert done.returncode == 1
        return str(done.stderr)

    assert "OMS_SECRET_KEY_FILE: OMS_SECRET_KEY is set too" in refusal(OMS_SECRET_KEY=FIRST)
    file.write_text("\n")
    assert "OMS_SECRET_KEY_FILE: has no key" in refusal()
    assert FIRST not in refusal(OMS_SECRET_KEY=f"{FIRST},{FIRST}")
