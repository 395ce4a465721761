"""The tables as Piccolo knows them. ``shared/database/schema.sql`` is the whole schema, explained."""

from __future__ import annotations

from piccolo.columns import (
    UUID,
    Array,
    BigInt,
    BigSerial,
    Date,
    DoublePrecision,
    ForeignKey,
    Integer,
    Numeric,
    Serial,
    Text,
    Timestamptz,
)
from piccolo.columns.base import OnUpdate
from piccolo.columns.column_types import JSON, JSONB
from piccolo.columns.defaults.timestamptz import TimestamptzNow
from piccolo.table import Table


class Calendar(Table, tablename="calendar"):
    """A name on an order, and how far apart its orders are."""

    id = Serial(primary_key=True)
    name = Text(unique=True, help_text="as the caller wrote it; never renamed")
    created_at = Timestamptz(default=TimestamptzNow())
    title = Text(help_text="for people; may be empty")
    spacing_seconds = Integer(default=10_800, help_text="how far apart two orders are at least")
    deleted_at = Timestamptz(
        null=True, default=None, help_text="it has no orders; one that names it restores it"
    )


class Service(Table, tablename="service"):
    """What can be ordered. Archived, never deleted."""

    id = BigSerial(
        primary_key=True, help_text="below 10^15 chosen by the caller, from there on by the sequence"
    )
    name = Text(help_text="unique among services that are not archived, see name_key")
    archived_at = Timestamptz(null=True, default=None, help_text="since when it can't be ordered any more")
    created_at = Timestamptz(default=TimestamptzNow())
    updated_at = Timestamptz(default=TimestamptzNow())


class Order(Table, tablename="orders"):
    """An order. Triggers render it and write its ``order_change`` in the same statement.

    There is one more column, ``clear_until``, which a trigger computes. A migration adds it in SQL.
    """

    id = BigSerial(
        primary_key=True, help_text="below 10^15 chosen by the caller, from there on by the sequence"
    )
    datetime = Timestamptz(default=None, help_text="when the work is scheduled")
    totalfee = Numeric(digits=(12, 2), default=None)
    service_ids = Array(base_column=BigInt(), default=None, help_text="ascending")
    service_names = Array(base_column=Text(), default=None, help_text="as of the order's last write")
    calendar_id = Integer(default=None, help_text="of calendar; checked by a trigger")
    import_id = BigInt(
        default=None, help_text="orders that share one may be close to each other; see OrderImport"
    )
    version = Integer(default=1, help_text="1, 2, 3, …: one more with each change")
    created_at = Timestamptz(default=None, help_text="set by a trigger unless given")
    updated_at = Timestamptz(default=None, help_text="set by a trigger unless given")
    rendered = JSON(default=None, help_text="the order as callers see it; written by a trigger")
    format = Integer(default=1, help_text="of rendered; part of the order's entity tag")
    reference = Text(null=True, default=None, help_text="the caller's own; unique")
    metadata = JSONB(default="{}", help_text="the caller's own: an object of texts")
    status = Text(default="booked", help_text="booked or cancelled")


class ClaimedOrderId(Table, tablename="claimed_order_id"):
    """Ids that callers gave to orders, including orders deleted since: an id is never used again."""

    id = BigInt(primary_key=True, default=None)


class OrderImport(Table, tablename="order_import"):
    """A file whose orders were imported together. Its id is their ``import_id``."""

    id = BigInt(primary_key=True, default=None)
    sha256 = Text(unique=True, help_text="of the file: the same file is not imported twice")
    file_name = Text()
    orders = Integer(default=None, help_text="how many orders it contained")
    imported_at = Timestamptz(default=TimestamptzNow())


class OrderChange(Table, tablename="order_change"):
    """The change log: what one commit did to one order, by ``type``."""

    id = BigSerial(primary_key=True, help_text="order of writing, with gaps and late commits: never a cursor")
    position = BigInt(
        null=True, default=None, unique=True, help_text="without gaps, final; assigned by the relay"
    )
    event_id = UUID(default=None, help_text="UUIDv7: the notification's id")
    type = Text(help_text="order.created, .updated, .cancelled, .reinstated or .deleted")
    order_id = BigInt(default=None)
    order_version = Integer(default=None)
    calendar_id = Integer(default=None)
    previous_calendar_id = Integer(
        null=True, default=None, help_text="where the order was before; null: it is new"
    )
    recorded_at = Timestamptz(default=TimestamptzNow())
    order_state = JSON(null=True, default=None, help_text="the order after the change, as GET returns it")
    previous_state = JSON(null=True, default=None, help_text="the order before the change")
    actor = Text(null=True, default=None, help_text="who made it; null: recorded before this column was")
    reason = Text(null=True, default=None, help_text="why, if they said it")
    traceparent = Text(null=True, default=None, help_text="the request's, W3C Trace Context; null: no trace")


class ChangeLog(Table, tablename="change_log"):
    """One row: where the change log begins and ends. It is locked while positions are assigned."""

    id = Integer(primary_key=True, default=1)
    last_position = BigInt(default=0)
    first_position = BigInt(
        default=1, help_text="the oldest retained; in an empty log, the next to be assigned"
    )
    led_at = Timestamptz(null=True, default=None, help_text="when a relay last worked; null: none has yet")


class ConsumerCursor(Table, tablename="consumer_cursor"):
    """The progress of a consumer of changes: everything up to ``position`` is applied, nothing after it."""

    consumer = Text(primary_key=True)
    position = BigInt(default=0)
    moved_at = Timestamptz(default=TimestamptzNow())


class FeeSummary(Table, tablename="fee_summary"):
    """How many orders of a day contribute a given share of their fee to a service.

    Stored per share, not as one sum, so that the smallest and the largest stay exact when orders are deleted.
    With three hours between them, a calendar holds at most eight orders a day: one sum would save little.
    """

    id = BigSerial(primary_key=True)
    generation = Integer(
        default=None, help_text="see FeeSummaryState; rows of others are being built or deleted"
    )
    day = Date(default=None, help_text="a day in FeeSummaryState.time_zone")
    calendar_id = Integer(default=None)
    service_id = BigInt(default=None, help_text="0 stands for the order as a whole")
    share = Numeric(digits=(12, 2), default=None)
    orders = Integer(default=None, help_text="never 0: such a row is deleted")


class FeeSummaryState(Table, tablename="fee_summary_state"):
    """One row: which generation is read. It changes only while the consumer's cursor is locked."""

    id = Integer(primary_key=True, default=None)
    generation = Integer(default=None, help_text="of the rows that are read and kept up to date")
    building = Integer(default=None, help_text="the highest number taken so far: the latest rebuild's")
    time_zone = Text(default=None, help_text="whose days are counted")


class FeeSummaryStep(Table, tablename="fee_summary_step"):
    """When the fee summaries reached each position, as far back as figures can be requested for."""

    position = BigInt(primary_key=True, default=None)
    moved_at = Timestamptz(default=None)


class FeeSummaryProof(Table, tablename="fee_summary_proof"):
    """One row: the last proof of the fee summaries against the orders."""

    id = Integer(primary_key=True, default=None)
    asked_at = Timestamptz(help_text="when the relay last requested one; until then, installation time")
    finished_at = Timestamptz(null=True, default=None, help_text="null: no proof has finished yet")
    position = BigInt(null=True, default=None, help_text="the position that was proved")
    orders = BigInt(null=True, default=None, help_text="how many orders were counted again")
    differing = BigInt(null=True, default=None, help_text="rows that did not match the orders")
    seconds = DoublePrecision(null=True, default=None, help_text="how long it took")


class Webhook(Table, tablename="webhook"):
    """A subscriber that changes are posted to."""

    id = BigInt(primary_key=True, default=None)
    url = Text(default=None)
    types = Array(base_column=Text(), default=None, help_text="empty: every change of an order")
    calendars = Array(
        base_column=Text(), default=None, help_text="names; empty: all; they need not exist yet"
    )
    description = Text(default=None)
    starts_after = BigInt(default=None, help_text="only changes after this position are sent")
    created_at = Timestamptz(default=TimestamptzNow())
    updated_at = Timestamptz(default=TimestamptzNow())
    disabled_at = Timestamptz(null=True, default=None, help_text="since when nothing is sent to it")
    disabled_reason = Text(null=True, default=None, help_text="caller, gone (it answered 410) or failing")
    failing_since = Timestamptz(null=True, default=None, help_text="the first failure since its last success")
    last_failure_at = Timestamptz(null=True, default=None)
    deleted_at = Timestamptz(null=True, default=None, help_text="its rows are deleted a little later")
    lease = UUID(null=True, default=None, help_text="of the task that serves it now")
    leased_until = Timestamptz(null=True, default=None, help_text="from then on another task may serve it")
    served_at = Timestamptz(
        null=True, default=None, help_text="the webhook that has waited longest is served next"
    )


class WebhookSecret(Table, tablename="webhook_secret"):
    """A secret that signs a webhook's deliveries, encrypted or not: signing needs the secret itself."""

    id = BigInt(primary_key=True, default=None)
    webhook_id = ForeignKey(Webhook, null=False, default=None, index=False, on_update=OnUpdate.no_action)
    secret = Text(
        default=None,
        help_text="whsec_ and 32 bytes in base64; or enc1:…, see shared/secret_keys",
        secret=True,
    )
    created_at = Timestamptz(default=TimestamptzNow())
    valid_until = Timestamptz(null=True, default=None, help_text="null: the current one")


class WebhookDelivery(Table, tablename="webhook_delivery"):
    """A notification for a webhook, and what happened to it.

    States: ``pending`` (not attempted yet in this round), ``retrying`` (an attempt failed, another follows),
    ``delivered`` (answered 2xx), ``exhausted`` (every attempt failed), ``disabled`` (the webhook was disabled
    before it was delivered). If a change that the consumer has applied has no row, the webhook did not ask
    for it.
    """

    id = BigInt(primary_key=True, default=None)
    webhook_id = ForeignKey(Webhook, null=False, default=None, index=False, on_update=OnUpdate.no_action)
    position = BigInt(null=True, default=None, help_text="of the change; null: a test or an announcement")
    event_id = UUID(
        default=None, help_text="the notification's id: the header webhook-id, the same at every attempt"
    )
    type = Text(default=None, help_text="the notification's type")
    order_id = BigInt(null=True, default=None)
    payload = Text(null=True, default=None, help_text="the notification, unless it is of a change")
    state = Text(default=None)
    round = Integer(default=1, help_text="one more with each replay: attempts of earlier rounds don't count")
    attempts = Integer(default=0, help_text="that ended, in this round")
    next_attempt_at = Timestamptz(null=True, default=None, help_text="null: no attempt follows")
    acknowledged_at = Timestamptz(null=True, default=None)
    created_at = Timestamptz(default=TimestamptzNow())


class WebhookAttempt(Table, tablename="webhook_attempt"):
    """One attempt at a delivery, stored when it begins. If its worker is killed, it never ends."""

    id = BigInt(primary_key=True, default=None)
    delivery_id = ForeignKey(
        WebhookDelivery, null=False, default=None, index=False, on_update=OnUpdate.no_action
    )
    started_at = Timestamptz(default=None)
    latency_ms = Integer(
        null=True, default=None, help_text="null: it has not ended, or its worker was killed"
    )
    status = Integer(null=True, default=None, help_text="null: no response")
    answer = Text(default=None, help_text="the first 2 KB of the response's body")
    error = Text(null=True, default=None, help_text="why it does not count as delivered; null: it does")
