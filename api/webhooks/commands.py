"""Commands about webhooks: each is one transaction, committed here.

Locks are taken in one order, everywhere: Idempotency-Keys, the consumer's cursor, the webhook, its
deliveries.
"""

from __future__ import annotations

import base64
import json
import secrets
from typing import TYPE_CHECKING

from api.changes.queries import check_position
from api.http.idempotency_keys import Answer, IdempotencyKey, idempotent
from api.http.json_text import encode_text
from api.http.times import utc_text
from api.webhooks.errors import TooMuchToReplayError, WebhookDisabledError, WebhookNotFoundError
from api.webhooks.queries import delivery_of, shown_webhook
from shared.change_log import WEBHOOK_DELIVERIES, Bounds, last_position, lock_cursor, log_bounds
from shared.database.rows import Row, row, rows
from shared.database.transaction import retry_on_lock_timeout, transaction

if TYPE_CHECKING:
    from api.webhooks.bodies import NewWebhook, Replay, SecretRotation, WebhookPatch

CREATION = "createWebhook"
"""The operation of an Idempotency-Key."""

SECRET_BYTES = 32
REPLAYED_AT_ONCE = 100_000
"""Changes that one replay covers: five seconds' work, in which the fan-out waits."""

MOST_SECRETS = 8
"""Each of them adds a signature to the header of every delivery; older ones end early."""


_SHOWED_SECRETS = "operation = $1 OR operation = $2 AND answer::json ->> 'id' = $3"


def rotation_of(webhook_id: int) -> str:
    """Name the operation of an Idempotency-Key: each webhook's rotations are one of their own."""
    return f"rotateWebhookSecret/{webhook_id}"


@retry_on_lock_timeout
async def create_webhook(new: NewWebhook, key: IdempotencyKey | None) -> Answer:
    """Store a webhook, or return the answer that an earlier try with the same key got; with its secret.

    It gets every change whose position is given from now on. With the consumer's cursor held, none of them
    can be passed before this is committed.
    """
    async with transaction():
        return await _create(key, new)


@idempotent
async def _create(new: NewWebhook) -> str:
    await lock_cursor(WEBHOOK_DELIVERIES)
    stored = await row(
        """
        INSERT INTO webhook (url, types, calendars, description, starts_after)
        VALUES ($1, $2, $3, $4, $5) RETURNING *
        """,
        new.url,
        new.types,
        new.calendars,
        new.description,
        await last_position(),
    )
    assert stored is not None  # noqa: S101 (an INSERT returns what it inserted)
    secret = await _add_secret(stored["id"])
    return encode_text({**shown_webhook(stored), "secret": secret})


async def _add_secret(webhook_id: int) -> str:
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    await rows("INSERT INTO webhook_secret (webhook_id, secret) VALUES ($1, $2)", webhook_id, secret)
    return secret


async def _hold(webhook_id: int) -> Row:
    """Lock a webhook until the transaction ends.

    Raises:
        WebhookNotFoundError: there is none.

    """
    found = await row(
        "SELECT * FROM webhook WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE", webhook_id
    )
    if found is None:
        raise WebhookNotFoundError(webhook_id)
    return found


@retry_on_lock_timeout
async def change_webhook(webhook_id: int, patch: WebhookPatch) -> Row:
    """Change parts of a webhook. Enabling begins anew: its failures are forgotten.

    What was disabled stays so, listed as missed: whether it is still wanted is the caller's to say (replay).

    Raises:
        WebhookNotFoundError: there is none.

    """
    async with transaction():
        before = await _hold(webhook_id)
        given = {name: getattr(patch, name) for name in patch.model_fields_set}
        enabled = given.pop("enabled", before["disabled_at"] is None)
        after = {**before, **given}
        changed = await row(
            """
            UPDATE webhook SET
                url = $2, types = $3, calendars = $4, description = $5, updated_at = clock_timestamp(),
                disabled_at = CASE WHEN NOT $6::boolean THEN coalesce(disabled_at, clock_timestamp()) END,
                disabled_reason = CASE WHEN NOT $6 THEN coalesce(disabled_reason, 'caller') END,
                failing_since = CASE WHEN $6 AND disabled_at IS NOT NULL THEN NULL ELSE failing_since END
            WHERE id = $1 RETURNING *
            """,
            webhook_id,
            after["url"],
            after["types"],
            after["calendars"],
            after["description"],
            enabled,
        )
        assert changed is not None  # noqa: S101 (the row is locked)
        if not enabled:
            await _end_deliveries(webhook_id)
        return changed


async def _end_deliveries(webhook_id: int) -> None:
    await rows(
        """
        UPDATE webhook_delivery SET state = 'disabled', next_attempt_at = NULL
        WHERE webhook_id = $1 AND next_attempt_at IS NOT NULL
        """,
        webhook_id,
    )


@retry_on_lock_timeout
async def delete_webhook(webhook_id: int) -> None:
    """Delete a webhook: nothing more is sent to it, its secrets are gone, its rows follow later.

    The answers that showed its secrets were kept for repeated requests: they go too, and with them the keys.

    Raises:
        WebhookNotFoundError: there is none.

    """
    showed_secrets = (rotation_of(webhook_id), CREATION, str(webhook_id))
    async with transaction():
        # Before the webhook, as whoever repeats a request locks its key before that.
        await rows(
            f"SELECT FROM idempotency_key WHERE {_SHOWED_SECRETS} ORDER BY caller, operation, key FOR UPDATE",
            *showed_secrets,
        )
        await _hold(webhook_id)
        await rows("UPDATE webhook SET deleted_at = clock_timestamp() WHERE id = $1", webhook_id)
        await rows("DELETE FROM webhook_secret WHERE webhook_id = $1", webhook_id)
        # Once more: a rotation may have added one until the webhook was locked.
        await rows(f"DELETE FROM idempotency_key WHERE {_SHOWED_SECRETS}", *showed_secrets)
        await _end_deliveries(webhook_id)


@retry_on_lock_timeout
async def rotate_secret(webhook_id: int, rotation: SecretRotation, key: IdempotencyKey | None) -> Answer:
    """Give a webhook a new secret; the old one signs beside it for a while.

    Returns the answer, or that of an earlier try with the same key.

    Raises:
        WebhookNotFoundError: there is none.

    """
    async with transaction():
        return await _rotate(key, webhook_id, rotation)


@idempotent
async def _rotate(webhook_id: int, rotation: SecretRotation) -> str:
    await _hold(webhook_id)
    old = await row(
        """
        UPDATE webhook_secret SET valid_until = now() + $2 * interval '1 second'
        WHERE webhook_id = $1 AND valid_until IS NULL RETURNING valid_until
        """,
        webhook_id,
        rotation.old_valid_for,
    )
    secret = await _add_secret(webhook_id)
    await rows(
        """
        DELETE FROM webhook_secret WHERE webhook_id = $1 AND (valid_until <= now() OR id NOT IN (
            SELECT id FROM webhook_secret WHERE webhook_id = $1 ORDER BY id DESC LIMIT $2
        ))
        """,
        webhook_id,
        MOST_SECRETS,
    )
    signs = rotation.old_valid_for > 0 and old is not None
    return encode_text(
        {"secret": secret, "old_valid_until": utc_text(old["valid_until"]) if old and signs else None}
    )


@retry_on_lock_timeout
async def send_test(webhook_id: int) -> str:
    """Make a test delivery, attempted once; give it as it is shown.

    Raises:
        WebhookNotFoundError: there is none.
        WebhookDisabledError: nothing is sent to it.

    """
    async with transaction():
        await _hold_enabled(webhook_id)
        event = await row("SELECT uuidv7() AS id, utc_text(now()) AS time")
        assert event is not None  # noqa: S101 (a row without FROM)
        payload = {
            "specversion": "1.0",
            "id": str(event["id"]),
            "source": "/webhooks",
            "type": "webhook.test",
            "subject": str(webhook_id),
            "time": event["time"],
            "datacontenttype": "application/json",
            "data": {"webhook": str(webhook_id)},
        }
        made = await row(
            """
            INSERT INTO webhook_delivery (webhook_id, event_id, type, payload, state, next_attempt_at)
            VALUES ($1, $2, 'webhook.test', $3, 'pending', now()) RETURNING id
            """,
            webhook_id,
            event["id"],
            json.dumps(payload, separators=(",", ":")),
        )
        assert made is not None  # noqa: S101 (an INSERT returns what it inserted)
        return await delivery_of(webhook_id, made["id"])


async def _hold_enabled(webhook_id: int) -> Row:
    found = await _hold(webhook_id)
    if found["disabled_reason"] is not None:
        raise WebhookDisabledError(webhook_id, found["disabled_reason"])
    return found


@retry_on_lock_timeout
async def replay(webhook_id: int, wanted: Replay) -> int:
    """Make what was missed, or everything after a position, due again; return how many deliveries that is.

    With a position it is everything that the webhook asks for now, delivered before or not, from before it
    was made too. What the consumer has not reached yet comes anyway.

    Raises:
        WebhookNotFoundError: there is none.
        WebhookDisabledError: nothing is sent to it.
        PositionNotInLogError: the log has not everything after the position, or does not reach it.
        TooMuchToReplayError: too many changes follow it.

    """
    async with transaction():
        reached = await lock_cursor(WEBHOOK_DELIVERIES)
        await _hold_enabled(webhook_id)
        if wanted.after is None:
            due = await rows(
                """
                UPDATE webhook_delivery SET
                    state = 'pending', round = round + 1, attempts = 0, next_attempt_at = now()
                WHERE id IN (
                    SELECT id FROM webhook_delivery
                    WHERE webhook_id = $1 AND position IS NOT NULL
                        AND state <> 'delivered' AND state <> 'pending'
                    ORDER BY position LIMIT $2
                ) RETURNING 1
                """,
                webhook_id,
                REPLAYED_AT_ONCE,
            )
            return len(due)
        check_position(wanted.after, await log_bounds())
        if wanted.after < reached - REPLAYED_AT_ONCE:
            raise TooMuchToReplayError(reached - REPLAYED_AT_ONCE)
        await rows(
            "UPDATE webhook SET starts_after = least(starts_after, $2) WHERE id = $1",
            webhook_id,
            wanted.after,
        )
        found = await row(
            """
            WITH due AS (
                INSERT INTO webhook_delivery AS d
                    (webhook_id, position, event_id, type, order_id, state, next_attempt_at)
                SELECT w.id, c.position, c.event_id, c.type, c.order_id, 'pending', now()
                FROM order_change AS c JOIN webhook AS w ON w.id = $1 AND webhook_wants(w, c)
                WHERE c.position > $2 AND c.position <= $3
                ORDER BY c.position
                ON CONFLICT (webhook_id, position) DO UPDATE SET
                    state = 'pending', round = d.round + 1, attempts = 0, next_attempt_at = now(),
                    acknowledged_at = NULL
                RETURNING 1
            )
            SELECT count(*) AS deliveries, first_position AS first, last_position AS last
            FROM due RIGHT JOIN change_log ON true GROUP BY first_position, last_position
            """,
            webhook_id,
            wanted.after,
            reached,
        )
        assert found is not None  # noqa: S101 (the log's one row)
        # Once more, of the snapshot that was read: the log may have been trimmed since the first look.
        check_position(wanted.after, Bounds(found["first"], found["last"]))
        return int(found["deliveries"])
