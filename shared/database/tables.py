"""Every table, with the meaning of its columns. Triggers, constraints and indexes are in the migrations."""

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
from piccolo.columns.column_types import JSON
from piccolo.columns.defaults.timestamptz import TimestamptzNow
from piccolo.table import Table


class Calendar(Table, tablename="calendar"):
    """A calendar of orders. The 3-hour rule holds within each calendar."""

    id = Serial(primary_key=True)
    name = Text(unique=True, help_text="chosen by the caller; created on first use, never renamed")
    created_at = Timestamptz(default=TimestamptzNow())


class Service(Table, tablename="service"):
    """What can be ordered. A service is archived, never deleted."""

    id = BigSerial(
        primary_key=True, help_text="below 10^12 given by the caller, from there on by the sequence"
    )
    name = Text(help_text="unique, ignoring case, among services that are not archived")
    archived_at = Timestamptz(null=True, default=None, help_text="since when it can no longer be ordered")
    created_at = Timestamptz(default=TimestamptzNow())
    updated_at = Timestamptz(default=TimestamptzNow())


class Order(Table, tablename="orders"):
    """An order. A trigger records an ``order_change`` at each write of a row."""

    id = BigSerial(
        primary_key=True, help_text="below 10^12 given by the caller, from there on by the sequence"
    )
    datetime = Timestamptz(default=None, help_text="when the work takes place")
    clear_until = Timestamptz(default=None, help_text="datetime + 3 h, stored: the sum is not IMMUTABLE")
    totalfee = Numeric(digits=(12, 2), default=None)
    service_ids = Array(base_column=BigInt(), default=None, help_text="ascending")
    service_names = Array(
        base_column=Text(), default=None, help_text="the names when the order was last written"
    )
    calendar_id = ForeignKey(Calendar, null=False, default=None, index=False)
    import_id = BigInt(default=None, help_text="orders with the same one need no gap; see OrderImport")
    version = Integer(default=1, help_text="1, 2, 3, …: one more with each change")
    created_at = Timestamptz(default=TimestamptzNow())
    updated_at = Timestamptz(default=TimestamptzNow())


class ClaimedOrderId(Table, tablename="claimed_order_id"):
    """Ids that callers chose for orders, deleted ones too: an id names one order permanently."""

    id = BigInt(primary_key=True, default=None)


class OrderImport(Table, tablename="order_import"):
    """An imported file of orders. Its id is the ``import_id`` of these orders."""

    id = BigInt(primary_key=True, default=None)
    sha256 = Text(unique=True, help_text="of the file: the same file is not imported twice")
    file_name = Text()
    orders = Integer(default=None, help_text="how many orders the file had")
    imported_at = Timestamptz(default=TimestamptzNow())


class OrderChange(Table, tablename="order_change"):
    """The change log: one committed creation, update or deletion of one order."""

    id = BigSerial(
        primary_key=True, help_text="in the order of writing, with gaps and late commits: never a cursor"
    )
    position = BigInt(
        null=True, default=None, unique=True, help_text="dense and final; assigned by the relay"
    )
    event_id = UUID(help_text="UUIDv7: the notification's id")
    type = Text(help_text="order.created, order.updated or order.deleted")
    order_id = BigInt(default=None)
    order_version = Integer(default=None)
    calendar_id = Integer(default=None)
    previous_calendar_id = Integer(
        null=True, default=None, help_text="the calendar before the change, if there was one"
    )
    recorded_at = Timestamptz(default=TimestamptzNow())
    order_state = JSON(null=True, default=None, help_text="the order after the change, as GET shows it")
    previous_state = JSON(null=True, default=None, help_text="the order before the change")


class ChangeLog(Table, tablename="change_log"):
    """One row: the first and the last position. Its row lock lets one assigner work at a time."""

    id = Integer(primary_key=True, default=1)
    last_position = BigInt(default=0)
    first_position = BigInt(default=1, help_text="the first retained position, or the next one if none is")


class ConsumerCursor(Table, tablename="consumer_cursor"):
    """A consumer's place in the change log: all changes up to ``position`` are applied, and none after."""

    consumer = Text(primary_key=True)
    position = BigInt(default=0)
    moved_at = Timestamptz(default=TimestamptzNow())


class FeeSummary(Table, tablename="fee_summary"):
    """How many orders of one day bring a service the same share of their fee.

    One row per share, not one sum, so that the least and the greatest share stay exact when orders are
    deleted. A calendar has at most eight orders a day (imports excepted), so one sum would save little.
    """

    id = BigSerial(primary_key=True)
    generation = Integer(
        default=None, help_text="see FeeSummaryState; rows of others are being built or removed"
    )
    day = Date(default=None, help_text="a day in FeeSummaryState.time_zone")
    calendar_id = Integer(default=None)
    service_id = BigInt(default=None, help_text="0: the order as a whole")
    share = Numeric(digits=(12, 2), default=None)
    orders = Integer(default=None, help_text="never 0: such a row is deleted")


class FeeSummaryState(Table, tablename="fee_summary_state"):
    """One row: which generation of fee summaries is current. It changes only under the cursor's lock."""

    id = Integer(primary_key=True, default=1)
    generation = Integer(default=None, help_text="the generation that is read and kept up to date")
    building = Integer(default=None, help_text="the highest generation ever begun: the latest rebuild's")
    time_zone = Text(help_text="the zone whose days the summaries count")


class FeeSummaryStep(Table, tablename="fee_summary_step"):
    """When the fee summaries reached a position, as far back as figures can be read."""

    position = BigInt(primary_key=True, default=None)
    moved_at = Timestamptz(default=None)


class FeeSummaryProof(Table, tablename="fee_summary_proof"):
    """One row: the last comparison of the fee summaries with the orders."""

    id = Integer(primary_key=True, default=1)
    asked_at = Timestamptz(help_text="when the relay last requested a proof, or the installation")
    finished_at = Timestamptz(null=True, default=None, help_text="null: there was no proof yet")
    position = BigInt(null=True, default=None, help_text="the position at which it ran")
    orders = BigInt(null=True, default=None, help_text="how many orders were counted again")
    differing = BigInt(null=True, default=None, help_text="rows that differed from the orders")
    seconds = DoublePrecision(null=True, default=None, help_text="how long it took")


class Webhook(Table, tablename="webhook"):
    """A subscriber to whom changes are sent by POST."""

    id = BigSerial(primary_key=True)
    url = Text()
    types = Array(base_column=Text(), default=None, help_text="empty: all types")
    calendars = Array(base_column=Text(), default=None, help_text="names, also of no calendar; empty: all")
    description = Text()
    starts_after = BigInt(default=None, help_text="it receives the changes after this position")
    created_at = Timestamptz(default=TimestamptzNow())
    updated_at = Timestamptz(default=TimestamptzNow())
    disabled_at = Timestamptz(null=True, default=None, help_text="since when nothing is sent to it")
    disabled_reason = Text(null=True, default=None, help_text="caller, gone (it answered 410), or failing")
    failing_since = Timestamptz(null=True, default=None, help_text="the first failure since the last success")
    last_failure_at = Timestamptz(null=True, default=None)
    deleted_at = Timestamptz(null=True, default=None, help_text="its rows are deleted later")
    lease = UUID(null=True, default=None, help_text="the lease of the task that serves it")
    leased_until = Timestamptz(null=True, default=None, help_text="from then on another task may serve it")
    served_at = Timestamptz(
        null=True, default=None, help_text="the webhook that waited longest is served next"
    )


class WebhookSecret(Table, tablename="webhook_secret"):
    """A key that signs the deliveries of a webhook. Stored in clear: signing needs the key itself."""

    id = BigSerial(primary_key=True)
    webhook_id = ForeignKey(Webhook, null=False, default=None, index=False)
    secret = Text(help_text="whsec_ and 32 bytes in base64", secret=True)
    created_at = Timestamptz(default=TimestamptzNow())
    valid_until = Timestamptz(null=True, default=None, help_text="null: the current one")


class WebhookDelivery(Table, tablename="webhook_delivery"):
    """A notification for a webhook, and the state of its delivery.

    States: ``pending`` (created by the consumer, a replay or a test; not attempted since), ``retrying`` (an
    attempt failed, another will follow), ``delivered`` (answered 2xx), ``exhausted`` (every attempt failed),
    ``disabled`` (the webhook was disabled, when the change came or before it was delivered). A replay ends
    the last two. If the consumer has passed a change and there is no row, the webhook did not subscribe to
    it.
    """

    id = BigSerial(primary_key=True)
    webhook_id = ForeignKey(Webhook, null=False, default=None, index=False)
    position = BigInt(null=True, default=None, help_text="the change's; null: a test or an announcement")
    event_id = UUID(help_text="the notification's id: the header webhook-id, the same at every attempt")
    type = Text(help_text="the notification's type")
    order_id = BigInt(null=True, default=None)
    payload = Text(null=True, default=None, help_text="the notification; null: it is built from the change")
    state = Text()
    round = Integer(default=1, help_text="one more with each replay: attempts of earlier rounds do not count")
    attempts = Integer(default=0, help_text="how many ended in this round")
    next_attempt_at = Timestamptz(null=True, default=None, help_text="null: no attempt will follow")
    acknowledged_at = Timestamptz(null=True, default=None)
    created_at = Timestamptz(default=TimestamptzNow())


class WebhookAttempt(Table, tablename="webhook_attempt"):
    """One attempt at a delivery, stored when it begins. An attempt of a killed worker never ends."""

    id = BigSerial(primary_key=True)
    delivery_id = ForeignKey(WebhookDelivery, null=False, default=None, index=False)
    started_at = Timestamptz(default=None)
    latency_ms = Integer(null=True, default=None, help_text="null: it has not ended, or its end was not seen")
    status = Integer(null=True, default=None, help_text="null: no answer")
    answer = Text(help_text="the first 2 KB of the answer's body")
    error = Text(null=True, default=None, help_text="why the delivery failed; null: it did not")
