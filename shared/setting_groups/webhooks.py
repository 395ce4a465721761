"""Where webhooks may be sent to, and how many there may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from shared.setting_values import Networks, Ports
from shared.webhook_addresses import AddressPolicy


class WebhookSettings(BaseModel):
    """Where webhooks may be sent to, and how many there may be."""

    webhook_networks: Networks = Field("", validate_default=True)
    """Private and loopback networks that webhooks may be sent to: ``10.0.0.0/8,127.0.0.0/8``.

    Public addresses need no entry. Link-local, metadata and multicast addresses are always refused.
    """

    webhook_ports: Ports = Field("80,443,1024-65535", validate_default=True)
    """Ports that webhooks may be sent to: numbers and ranges, separated by commas."""

    webhook_plain_http: Literal["never", "internal", "always"] = "internal"
    """Whether webhooks may be sent without TLS (``http:``).

    ``internal`` allows it only to addresses in ``OMS_WEBHOOK_NETWORKS``.
    """

    webhook_ca_file: str = ""
    """A file of CA certificates (PEM) to trust in addition to the system's; empty means none."""

    webhook_timeout: Annotated[float, Field(gt=0, le=15)] = 15
    """Total time limit of one attempt: name look-up, connection, request and response."""

    webhook_endpoints_at_once: Annotated[int, Field(ge=2, le=1_000)] = 100
    """The most webhooks that are sent to at the same time, each with one request at a time.

    Failing webhooks get at most half of these places.
    """

    max_webhooks: Annotated[int, Field(ge=1, le=10_000)] = 100
    """The most webhooks that there may be; further ones are refused. Each gets a row for every change."""

    @property
    def webhook_addresses(self) -> AddressPolicy:
        """The addresses that webhooks may be sent to."""
        return AddressPolicy(self.webhook_networks, self.webhook_ports, self.webhook_plain_http)
