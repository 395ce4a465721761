"""Asking a server of this machine whether it answers."""

from __future__ import annotations

import http.client

TIMEOUT_SECONDS = 1


def answers_ok(host: str, port: int, path: str) -> bool:
    """Return whether a server answers 200 within a second, on a new connection."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
