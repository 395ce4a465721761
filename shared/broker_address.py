"""Where RabbitMQ is, if it has the queue: the one reader of ``OMS_BROKER_URL``.

    amqp://user:password@one:5672,two:5672/vhost          amqps:// the same, over TLS

Without a path, the virtual host is ``/``. ``amqps`` verifies the certificate, with the system's certificates
or those of the file ``ssl_ca_certs``. Of several nodes of one cluster, the first that answers is used.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from shared.server_urls import check_file, split_url

_KNOWN = {"amqp": (), "amqps": ("ssl_ca_certs",)}
_PORTS = {"amqp": 5_672, "amqps": 5_671}


@dataclass(frozen=True)
class BrokerAddress:
    """A RabbitMQ: one node, or several of one cluster."""

    hosts: tuple[tuple[str, int], ...]
    username: str
    password: str = field(repr=False)
    virtual_host: str
    tls: dict[str, Any] | None
    """py-amqp's options for TLS; None without it."""

    @property
    def url(self) -> str:
        """The URLs for Kombu, one for each node, joined as it takes them. They have the password."""
        user = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}"
        path = quote(self.virtual_host, safe="")
        return ";".join(
            f"amqp://{user}@{f'[{host}]' if ':' in host else host}:{port}/{path}" for host, port in self.hosts
        )


def read_broker_url(url: str) -> BrokerAddress:
    """Read a URL of RabbitMQ.

    Raises:
        ValueError: it is malformed; the message says what to change, and quotes nothing of it.

    """
    scheme = url.partition("://")[0]
    parts = split_url(url, tuple(_KNOWN), _KNOWN.get(scheme, ()), password_required=True)
    if not parts.hosts:
        raise ValueError("the host is missing; a password comes before it, and ends with @")
    tls: dict[str, Any] | None = None
    if scheme == "amqps":
        # With server_hostname, which is the node's, py-amqp also checks for which name a certificate is.
        tls = {"cert_reqs": ssl.CERT_REQUIRED}
        if "ssl_ca_certs" in parts.parameters:
            tls["ca_certs"] = check_file(parts.parameters["ssl_ca_certs"], "ssl_ca_certs")
    return BrokerAddress(
        hosts=tuple((host, port or _PORTS[scheme]) for host, port in parts.hosts),
        username=parts.username or "guest",
        password=parts.password or "guest",
        virtual_host=parts.path or "/",
        tls=tls,
    )
