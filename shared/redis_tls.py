"""TLS of every connection to Redis: for the queue, the stream and the health check."""

from __future__ import annotations

from typing import Any

from shared.settings import settings


def tls_options() -> dict[str, Any]:
    """Return redis-py's options for ``OMS_REDIS_URL``; empty if that is not a ``rediss:`` URL.

    They are given everywhere, as Kombu looks at the URL's scheme only if the transport is its own: without
    them it would speak to a ``rediss:`` server in clear, and begin with the password.
    """
    if not settings().redis_url.startswith("rediss://"):
        return {}
    options: dict[str, Any] = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    if settings().redis_ca_file:
        options["ssl_ca_certs"] = settings().redis_ca_file
    return options
