"""An HTTPX client that sends plain requests through urllib3, for half the CPU: the tests make 16,000."""

from __future__ import annotations

import json
import re
import ssl
from typing import TYPE_CHECKING, Any

import httpx
import urllib3

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

_CONNECTIONS = 100

# None is shown here, so none is trusted: to read those of the world takes 50 ms for each client.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_PLAIN_ADDRESS = re.compile(r"(/(?!\.)([\w.~:,-]|%[0-9A-F]{2})+)+(\?([\w/&=.~:,-]|%[0-9A-F]{2})+)?", re.ASCII)
_PLAIN_HEADER = re.compile(r"[!-~]([ -~]*[!-~])?")
_METHODS = {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}
_KNOWN = {"content", "json", "params", "headers"}
_OF_THE_CONNECTION = {"connection", "content-length", "expect", "transfer-encoding"}
_USUAL_HEADERS = {"accept": "*/*", "accept-encoding": "gzip, deflate", "user-agent": "tests"}


class QuickClient(httpx.Client):
    """Gives the answers that HTTPX gives, but without their request and the time they took.

    Whatever both libraries might not send in the same way, byte for byte, HTTPX sends.
    """

    def __init__(self, url: str, timeout: float = 30) -> None:
        super().__init__(
            base_url=url,
            timeout=timeout,
            limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
            verify=_NO_CERTIFICATES,
        )
        self._pool = urllib3.HTTPConnectionPool(
            self.base_url.host, self.base_url.port, timeout=timeout, maxsize=_CONNECTIONS
        )

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()
        super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Close every connection."""
        self._pool.close()
        super().__exit__(kind, error, trace)

    def request(self, method: str, url: httpx.URL | str, **given: Any) -> httpx.Response:
        """Make a request.

        Raises:
            httpx.TransportError: there is no answer.

        """
        wanted = {
            name: value
            for name, value in given.items()
            if value is not None and value is not httpx.USE_CLIENT_DEFAULT
        }
        address = str(url)
        if "params" in wanted:
            # One that has a query already matches nothing below: HTTPX would replace it.
            address += f"?{httpx.QueryParams(wanted['params'])}"
        headers = wanted.get("headers", {})
        body = wanted.get("content")
        if not (
            method in _METHODS
            and wanted.keys() <= _KNOWN
            and _PLAIN_ADDRESS.fullmatch(address)
            and isinstance(headers, dict)
            and all(_is_plain(name, value) for name, value in headers.items())
            and (body is None or isinstance(body, str | bytes))
        ):
            return super().request(method, url, **given)
        sent = _USUAL_HEADERS | {name.lower(): value for name, value in headers.items()}
        if "json" in wanted:
            body = json.dumps(wanted["json"], ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            sent.setdefault("content-type", "application/json")
        body = body.encode() if isinstance(body, str) else body
        return self._answer(method, address, body or None, sent)

    def _answer(
        self, method: str, address: str, body: bytes | None, headers: Mapping[str, str]
    ) -> httpx.Response:
        try:
            answer = self._pool.urlopen(
                method, address, body, headers, retries=False, redirect=False, decode_content=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise httpx.TransportError(repr(error)) from error
        # Not as its content, of which it would make a Content-Length that nobody sent.
        stream = httpx.ByteStream(answer.data)
        response = httpx.Response(answer.status, headers=list(answer.headers.iteritems()), stream=stream)
        response.read()
        return response


def _is_plain(name: str, value: object) -> bool:
    return (
        name.lower() not in _OF_THE_CONNECTION
        and isinstance(value, str)
        and bool(_PLAIN_HEADER.fullmatch(value))
    )
