"""Signing in to the console as a browser does, for tests that need none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api

OWN = {"Sec-Fetch-Site": "same-origin"}


def post_key(api: Api, key: str, **more: Any) -> httpx.Response:
    """Send the form of the sign-in, as a browser does."""
    form = {"key": key, **more.pop("form", {})}
    return api.client.post("/console/sign-in", data=form, headers=OWN | more.pop("headers", {}))


def cookie_of(answer: httpx.Response) -> str:
    """Return name and value of the cookie that an answer sets."""
    (header,) = answer.headers.get_list("set-cookie")
    return str(header.partition(";")[0])


def session(api: Api, key: str) -> dict[str, str]:
    """Sign in, and return the header of further requests."""
    answer = post_key(api, key)
    assert answer.status_code == 303, answer.text
    return {"Cookie": cookie_of(answer)}


def is_signed_in(api: Api, cookie: str) -> bool:
    """Return whether a cookie opens the console's part of the API."""
    status = api.client.get("/console/api/caller", headers={"Cookie": cookie}).status_code
    assert status in (200, 401)
    return status == 200
