"""The sockets of outbound HTTP: to addresses that were checked, and with limits on what is read.

Subscribers choose the URLs, so the connection is made to an address that was checked, and to no other: the
name is resolved once, every address that it has is checked, and the socket is opened to one of them; the name
that TLS verifies stays the URL's.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import httpcore
import structlog

from shared.webhook_addresses import Address, AddressPolicy, RefusedAddressError

log = structlog.get_logger("worker")

MAX_RECEIVED_BYTES = 16_384
"""How much is read after each request, headers included: what Node.js and h11 allow for headers alone."""

MAX_INFORMATIONAL_RESPONSES = 10
"""How many responses with a status of 1xx may come before the one that decides."""

READ_BYTES = 1_024
"""How much is read at once. Between two reads, other attempts run: parsing 64 KB takes 0.1 s at worst."""

# As h11 reads them: each line may end with a line feed only, and a blank line ends the headers.
_TOO_MANY_INFORMATIONAL = re.compile(
    rb"(?:HTTP/\d\.\d +1[^\n]*\n(?:[^\r\n][^\n]*\n)*\r?\n){%d}" % (MAX_INFORMATIONAL_RESPONSES + 1)
)

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


class PinnedBackend(httpcore.AsyncNetworkBackend):
    """Opens sockets to addresses that were checked. TLS above it still verifies the URL's name."""

    def __init__(self, scheme: str, policy: AddressPolicy, resolve: Resolve) -> None:
        """Create a backend for URLs of one scheme."""
        self._scheme = scheme
        self._policy = policy
        self._resolve = resolve
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (the interface of httpcore)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to one of a name's addresses, if all of them are allowed.

        Raises:
            RefusedAddressError: one of them is not.

        """
        addresses = await self._resolve(host, port)
        # All of them are checked before the first connection: one forbidden address refuses the whole name.
        checked = [self._check(host, address) for address in addresses]
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in checked:
            try:
                # A numeric address: nothing below here resolves a name again.
                return _LimitedStream(
                    await self._sockets.connect_tcp(
                        str(address), port, timeout, local_address, socket_options
                    )
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Sleep, for httpcore."""
        await asyncio.sleep(seconds)

    def _check(self, host: str, address: Address) -> Address:
        try:
            return self._policy.check(address, self._scheme)
        except RefusedAddressError as error:
            # Callers read why an attempt failed. What a name resolves to inside this deployment is not theirs
            # to know, so only the log has the address.
            log.warning("webhook_address_refused", host=host, reason=str(error))
            without_tls = self._scheme == "http" and self._policy.plain_http == "internal"
            raise RefusedAddressError(
                f"the address of {host} is not allowed"
                + (" (with http, only addresses in OMS_WEBHOOK_NETWORKS are)" if without_tls else "")
            ) from None


class _LimitedStream(httpcore.AsyncNetworkStream):
    """A connection from which no more than the limits above is read in response to one request.

    httpcore reads until a status of 200 or more has come, whatever comes before it.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._received = bytearray()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 (as above)
        left = MAX_RECEIVED_BYTES - len(self._received)
        if left <= 0:
            raise httpcore.RemoteProtocolError(f"the response is longer than {MAX_RECEIVED_BYTES} bytes")
        if _TOO_MANY_INFORMATIONAL.match(self._received):
            raise httpcore.RemoteProtocolError(
                f"more than {MAX_INFORMATIONAL_RESPONSES} informational responses (1xx)"
            )
        received = await self._stream.read(min(max_bytes, READ_BYTES, left), timeout)
        self._received += received
        return received

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 (as above)
        self._received.clear()  # what is read from here on answers this request
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 (as above)
    ) -> httpcore.AsyncNetworkStream:
        return _LimitedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
