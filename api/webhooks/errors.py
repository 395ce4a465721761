"""What can stand in the way of a command about webhooks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class WebhookNotFoundError(Exception):
    """No webhook has this id, or it was deleted."""

    webhook_id: int


@dataclass
class DeliveryNotFoundError(Exception):
    """The webhook has no delivery with this id, or it was forgotten with its change."""

    delivery_id: int


@dataclass
class WebhookDisabledError(Exception):
    """Nothing is sent to the webhook, so nothing can be asked for."""

    webhook_id: int
    reason: str


@dataclass
class TooMuchToReplayError(Exception):
    """A replay can't begin so far back: more changes follow than one covers."""

    first: int
    """The first position that it can begin after."""
