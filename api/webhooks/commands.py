"""Commands about webhooks: each is one transaction, committed here.

Locks are always taken in this order, so that no two commands can deadlock: Idempotency-Keys, the consumer's
cursor, the webhook, its deliveries.

Times by which deliveries are scheduled are set in SQL, so that only the database's clock is used.
"""

from __future__ import annotations

import base64
import secrets
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from api.http.idempotency_keys import Answer, IdempotencyKey, idempotent
from api.http.json_text import encode_text
from api.http.times import utc_text
from api.webhooks.errors import (
    TooManyWebhooksError,
    WebhookDisabledError,
    WebhookNotFoundError,
)
from api.webhooks.queries import WEBHOOK_COLUMNS, StoredDelivery, StoredWebhook, find_delivery
from shared.change_log import WEBHOOK_DELIVERIES, last_position, lock_cursor
from shared.database.statements import execute, fetch_one, fetch_optional, fetch_value, fetch_values
from shared.database.tables import WebhookSecret
from shared.database.transaction import retry_on_lock_timeout, transaction
from shared.settings import settings
from shared.webhooks import DISABLE_DELIVERIES, notification, secret_row

if TYPE_CHECKING:
    from api.webhooks.bodies import NewWebhook, SecretRotation, WebhookPatch

CREATION = "createWebhook"
"""The operation of an Idempotency-Key."""

SECRET_BYTES = 32
MAX_SECRETS = 8
"""Each of them adds a signature to the header of every delivery; older ones expire early."""

_INSERT = f"""
INSERT INTO webhook (url, types, calendars, description, starts_after)
VALUES ($1, $2, $3, $4, $5) RETURNING {WEBHOOK_COLUMNS}
"""

_COUNT = "SELECT count(*) FROM webhook WHERE deleted_at IS NULL"

_LOCK = f"SELECT {WEBHOOK_COLUMNS} FROM webhook WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE"

_UPDATE = f"""
UPDATE webhook SET
    url = $2, types = $3, calendars = $4, description = $5, updated_at = clock_timestamp(),
    disabled_at = CASE WHEN NOT $6::boolean THEN coalesce(disabled_at, clock_timestamp()) END,
    disabled_reason = CASE WHEN NOT $6 THEN coalesce(disabled_reason, 'caller') END,
    failing_since = CASE WHEN $6 AND disabled_at IS NOT NULL THEN NULL ELSE failing_since END
WHERE id = $1 RETURNING {WEBHOOK_COLUMNS}
"""

_LOCK_ANSWERS_WITH_SECRETS = """
SELECT FROM idempotency_key
WHERE operation = $1 OR operation = $2 AND answer::json ->> 'id' = $3
ORDER BY caller, operation, key FOR UPDATE
"""

_DELETE_ANSWERS_WITH_SECRETS = """
DELETE FROM idempotency_key WHERE operation = $1 OR operation = $2 AND answer::json ->> 'id' = $3
"""

# An encrypted secret is bound to its row, so that row's id must be known first.
_INSERT_SECRET = "INSERT INTO webhook_secret (webhook_id, secret) VALUES ($1, '') RETURNING id"  # noqa: S105 (a statement)
_SET_SECRET = "UPDATE webhook_secret SET secret = $2 WHERE id = $1"  # noqa: S105 (a statement)

_END_CURRENT = """
UPDATE webhook_secret SET valid_until = now() + $2 * interval '1 second'
WHERE webhook_id = $1 AND valid_until IS NULL RETURNING valid_until
"""

_DELETE_OLD_SECRETS = """
DELETE FROM webhook_secret WHERE webhook_id = $1 AND (valid_until <= now() OR id NOT IN (
    SELECT id FROM webhook_secret WHERE webhook_id = $1 ORDER BY id DESC LIMIT $2
))
"""

_INSERT_TEST = """
INSERT INTO webhook_delivery (webhook_id, event_id, type, payload, state, next_attempt_at)
VALUES ($1, $2, 'webhook.test', $3, 'pending', now()) RETURNING id
"""


def rotation_operation(webhook_id: int) -> str:
    """Return the operation of an Idempotency-Key for rotations, different for each webhook."""
    return f"rotateWebhookSecret/{webhook_id}"


@retry_on_lock_timeout
async def create_webhook(new: NewWebhook, key: IdempotencyKey | None) -> Answer:
    """Store a webhook, or return the answer that an earlier try with the same key got; with its secret.

    It gets every change whose position is assigned from now on. The consumer's cursor is locked, so the
    consumer can't pass any of them before this is committed.

    Raises:
        IdempotencyKeyReusedError: the key was used for other content.
        TooManyWebhooksError: there are ``OMS_MAX_WEBHOOKS`` already.

    """
    async with transaction():
        return await _create(key, new)


@idempotent
async def _create(new: NewWebhook) -> Answer:
    await lock_cursor(WEBHOOK_DELIVERIES)
    # Counted under that lock, which every creation takes: no two of them can both become the last one.
    most = settings().max_webhooks
    if await fetch_value(int, _COUNT) >= most:
        raise TooManyWebhooksError(most)
    webhook = await fetch_one(
        StoredWebhook, _INSERT, new.url, new.types, new.calendars, new.description, await last_position()
    )
    secret = await _add_secret(webhook.id)
    return Answer(encode_text({**webhook.members(), "secret": secret}))


async def _add_secret(webhook_id: int) -> str:
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    secret_id = await fetch_value(int, _INSERT_SECRET, webhook_id)
    stored = settings().secret_keys.encrypt(secret, secret_row(webhook_id, secret_id))
    await execute(_SET_SECRET, secret_id, stored)
    return secret


async def _lock_webhook(webhook_id: int) -> StoredWebhook:
    """Lock a webhook until the transaction ends.

    Raises:
        WebhookNotFoundError: no webhook has this id.

    """
    webhook = await fetch_optional(StoredWebhook, _LOCK, webhook_id)
    if webhook is None:
        raise WebhookNotFoundError(webhook_id)
    return webhook


async def lock_enabled_webhook(webhook_id: int) -> None:
    """Lock a webhook until the transaction ends.

    Raises:
        WebhookNotFoundError: no webhook has this id.
        WebhookDisabledError: nothing is sent to it.

    """
    webhook = await _lock_webhook(webhook_id)
    if webhook.disabled_reason is not None:
        raise WebhookDisabledError(webhook_id, webhook.disabled_reason)


@retry_on_lock_timeout
async def change_webhook(webhook_id: int, patch: WebhookPatch) -> StoredWebhook:
    """Change parts of a webhook. If this enables it, its earlier failures no longer count.

    If nothing would change, nothing is stored.

    Deliveries that were disabled stay so, and are listed as missed; a replay sends them.

    Raises:
        WebhookNotFoundError: no webhook has this id.

    """
    async with transaction():
        webhook = await _lock_webhook(webhook_id)
        members = patch.model_dump(exclude={"id"}, exclude_unset=True)
        was_enabled = webhook.disabled_at is None
        enabled = members.pop("enabled", was_enabled)
        wanted = msgspec.structs.replace(webhook, **members)
        if (wanted, enabled) == (webhook, was_enabled):
            return webhook
        changed = await fetch_one(
            StoredWebhook,
            _UPDATE,
            webhook_id,
            wanted.url,
            wanted.types,
            wanted.calendars,
            wanted.description,
            enabled,
        )
        if not enabled:
            await execute(DISABLE_DELIVERIES, webhook_id)
        return changed


@retry_on_lock_timeout
async def delete_webhook(webhook_id: int) -> None:
    """Delete a webhook and its secrets: nothing more is sent to it. The relay deletes its rows later.

    Answers that showed its secrets were kept for repeated requests: they are deleted too, with their keys.

    Raises:
        WebhookNotFoundError: no webhook has this id.

    """
    secrets_shown_in = (rotation_operation(webhook_id), CREATION, str(webhook_id))
    async with transaction():
        # Before the webhook: a repeated request also locks its key first.
        await execute(_LOCK_ANSWERS_WITH_SECRETS, *secrets_shown_in)
        await _lock_webhook(webhook_id)
        await execute("UPDATE webhook SET deleted_at = clock_timestamp() WHERE id = $1", webhook_id)
        await WebhookSecret.delete().where(WebhookSecret.webhook_id == webhook_id)
        # Searched again: until the webhook was locked, a rotation may have added an answer.
        await execute(_DELETE_ANSWERS_WITH_SECRETS, *secrets_shown_in)
        await execute(DISABLE_DELIVERIES, webhook_id)


@retry_on_lock_timeout
async def rotate_secret(webhook_id: int, rotation: SecretRotation, key: IdempotencyKey | None) -> Answer:
    """Make a new secret for a webhook; the old one signs beside it for a while.

    Returns the answer, or that of an earlier try with the same key.

    Raises:
        IdempotencyKeyReusedError: the key was used for other content.
        WebhookNotFoundError: no webhook has this id.

    """
    async with transaction():
        return await _rotate(key, webhook_id, rotation)


@idempotent
async def _rotate(webhook_id: int, rotation: SecretRotation) -> Answer:
    await _lock_webhook(webhook_id)
    ends = await fetch_values(datetime, _END_CURRENT, webhook_id, rotation.old_valid_for)
    secret = await _add_secret(webhook_id)
    await execute(_DELETE_OLD_SECRETS, webhook_id, MAX_SECRETS)
    old_valid_until = utc_text(ends[0]) if ends and rotation.old_valid_for > 0 else None
    return Answer(encode_text({"secret": secret, "old_valid_until": old_valid_until}))


class _TestEvent(msgspec.Struct, frozen=True):
    id: UUID
    time: str


@retry_on_lock_timeout
async def send_test(webhook_id: int) -> StoredDelivery:
    """Make a test delivery, to be attempted once, and return it.

    Raises:
        WebhookNotFoundError: no webhook has this id.
        WebhookDisabledError: nothing is sent to it.

    """
    async with transaction():
        await lock_enabled_webhook(webhook_id)
        event = await fetch_one(_TestEvent, "SELECT uuidv7() AS id, utc_text(now()) AS time")
        text = notification(event.id, event.time, "webhook.test", webhook_id, {})
        delivery_id = await fetch_value(int, _INSERT_TEST, webhook_id, event.id, text)
        return await find_delivery(webhook_id, delivery_id)
