"""Why a command about webhooks is refused."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class WebhookNotFoundError(Exception):
    """No webhook has this id, or it was deleted."""

    webhook_id: int


@dataclass
class DeliveryNotFoundError(Exception):
    """The webhook has no delivery with this id, or it was deleted with its change."""

    delivery_id: int


@dataclass
class WebhookDisabledError(Exception):
    """The webhook is disabled: nothing is sent to it, so no test or replay can be requested."""

    webhook_id: int
    reason: str


@dataclass
class TooManyWebhooksError(Exception):
    """There are as many webhooks as the deployment allows."""

    most: int


@dataclass
class TooMuchToReplayError(Exception):
    """A replay can't begin so far back: more changes follow than one replay covers."""

    first: int
    """The first position that it can begin after."""
