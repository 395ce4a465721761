"""Sessions: the visitor's key in a cookie that only this service can read.

There is nothing to store and nothing to share but the secret key: of ``OMS_SECRET_KEY``, or one that the main
process makes for its children, and then a restart signs everybody out. What the key may do is asked of the
API with each request, so a key that is revoked opens nothing a second later.
"""

from __future__ import annotations

import json
import os
import time
from functools import cache
from typing import TYPE_CHECKING

from shared.secret_keys import PREFIX, SecretKeys, UnreadableSecretError, make_secret_key, read_secret_keys
from shared.settings import settings

if TYPE_CHECKING:
    from litestar.types import Scope

COOKIE = "__Host-oms-session"
LIFETIME_SECONDS = 12 * 3600
LONGEST_KEY = 2_500
"""Characters of a key or token: browsers keep cookies of up to 4,096 bytes, and base64 adds a third."""

_ROW = ("console", "session")
_KEY_VARIABLE = "CONSOLE_SESSION_KEY"


def prepare_sessions() -> None:
    """Make the secret key of sessions in the server's main process, where OMS_SECRET_KEY has none.

    Its children are started with it in their environment, so that each can read the others' cookies.
    """
    if not settings().secret_keys.keys:
        os.environ.setdefault(_KEY_VARIABLE, make_secret_key())


@cache
def _secret_keys() -> SecretKeys:
    keys = settings().secret_keys.keys
    if keys:
        return SecretKeys(keys, encrypts=True)
    return read_secret_keys(os.environ.setdefault(_KEY_VARIABLE, make_secret_key()))


def header_of(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a header, whose name is in lower case."""
    return next((value.decode("latin-1") for each, value in scope["headers"] if each == name), None)


def begin_session(key: str) -> str:
    """Return the Set-Cookie header of a session with a key."""
    sealed = _secret_keys().encrypt(json.dumps([key, int(time.time()) + LIFETIME_SECONDS]), _ROW)
    return _set_cookie(sealed, LIFETIME_SECONDS)


def end_session() -> str:
    """Return the Set-Cookie header that ends a session."""
    return _set_cookie("", 0)


def _set_cookie(value: str, seconds: int) -> str:
    return f"{COOKIE}={value}; Max-Age={seconds}; Path=/; Secure; HttpOnly; SameSite=Strict"


def key_of(scope: Scope) -> str | None:
    """Return the key of a request's session; None if it has none, or one that ended or can't be read."""
    sealed = _cookie(scope, COOKIE)
    if sealed is None or not sealed.startswith(PREFIX):  # anything else would count as plain text
        return None
    try:
        key, until = json.loads(_secret_keys().decrypt(sealed, _ROW))
    except (ValueError, UnreadableSecretError):
        return None
    return str(key) if time.time() < until else None


def _cookie(scope: Scope, name: str) -> str | None:
    # Not http.cookies: it drops all that follows a cookie which it can't read, such as one with JSON.
    values = [value for each, value in scope["headers"] if each == b"cookie"]
    for pair in b";".join(values).decode("latin-1").split(";"):
        known, _, value = pair.strip().partition("=")
        if known == name:
            return value
    return None


def zone_name_of(scope: Scope) -> str | None:
    """Return the time zone that a script of the console found the browser to be in."""
    return _cookie(scope, "oms-zone")
