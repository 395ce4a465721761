"""Sign and POST: the only outbound HTTP to addresses that callers choose.

Connections go to addresses that were checked, and what is read is limited, see
``worker/webhooks/connections.py``. Proxies in the environment are ignored, no redirect is followed, and no
more of a response's body is read than is stored.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

import httpcore
import structlog
from standardwebhooks import Webhook

from shared.tracing.spans import propagation_headers
from shared.webhook_addresses import Address, AddressPolicy, RefusedAddressError
from worker.webhooks.connections import PinnedBackend, Resolve
from worker.webhooks.schedule import read_retry_after

if TYPE_CHECKING:
    from types import TracebackType

log = structlog.get_logger("worker")

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
MAX_RESPONSE_BYTES = 2_048
"""How much of a response's body is read and stored."""

CONNECT_SECONDS = 5.0
"""Limit of each connection attempt, so that a dead address of a name does not use up all the time."""

CANCELLATION_SECONDS = 1.0
"""How long an attempt that reached its time limit may take to close its connection."""

LOOKUP_THREADS = 4
"""Threads for name look-ups, for each attempt that may run at the same time.

When an attempt ends, its look-up may block a thread for another half minute, until the resolver times out.
"""


@dataclass(frozen=True)
class Message:
    """One notification for one webhook, about to be sent."""

    url: str
    webhook_id: str
    """The notification's id: the same at every attempt, so that a receiver recognizes repeats."""
    body: str
    secrets: Sequence[str]
    """``whsec_…``: each of them signs."""
    traceparent: str | None = None
    """Of the request that made the change; None: no trace."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    latency_ms: int
    status: int | None = None
    """None: there was no response."""
    answer: str = ""
    error: str | None = None
    """Why it does not count as delivered; None: it does."""
    retry_after: float | None = None
    """Seconds that the endpoint asked for."""
    was_possible: bool = True
    """False: nothing could be sent because of this service, which says nothing of the endpoint."""

    @property
    def delivered(self) -> bool:
        """Whether the endpoint acknowledged the notification."""
        return self.error is None

    @property
    def kind(self) -> str:
        """Whether it was ``delivered``, ``failed`` (with another answer) or ``unanswered``."""
        if self.delivered:
            return "delivered"
        return "unanswered" if self.status is None else "failed"


def signed_headers(message: Message, at: datetime) -> dict[str, str]:
    """Return the headers of Standard Webhooks, with a signature for each valid secret."""
    signatures = [
        Webhook(secret).sign(msg_id=message.webhook_id, timestamp=at, data=message.body)
        for secret in message.secrets
    ]
    return {
        "webhook-id": message.webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


@cache
def _tls(ca_file: str) -> ssl.SSLContext:
    """Read the trusted certificates, once per process: it often takes longer than an attempt."""
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


class WebhookClient:
    """Attempts deliveries. One per task: it keeps connections open between the deliveries to one endpoint."""

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        seconds: float,
        at_once: int,
        ca_file: str = "",
        resolve: Resolve | None = None,
    ) -> None:
        """Create a client.

        Args:
            policy: where it may connect to.
            seconds: total time limit of one attempt.
            at_once: attempts that may run at the same time. Each may wait for a name server that does not
                answer, which blocks a thread: with too few threads, such names would delay all others.
            ca_file: CA certificates (PEM) to trust in addition to the system's.
            resolve: resolves a name, in place of the system's resolver.

        """
        self._policy = policy
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS * at_once, thread_name_prefix="resolve")
        self._pools = {
            scheme: httpcore.AsyncConnectionPool(
                ssl_context=_tls(ca_file),
                max_connections=None,
                keepalive_expiry=5,
                network_backend=PinnedBackend(scheme, policy, resolve or self._resolve_with_system),
            )
            for scheme in ("http", "https")
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pool in self._pools.values():
            await pool.aclose()
        # Not waited for: a query that hangs ends when the resolver times out.
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def attempt(self, message: Message) -> Outcome:
        """Send a notification once and return the outcome. Nothing that an endpoint does makes this raise."""
        started_at, began = datetime.now(UTC), time.monotonic()
        received = _PartialResponse()
        # A task of its own: however the request handles its cancellation, the caller's task goes on.
        sending = asyncio.create_task(self._try_to_post(message, started_at, received))
        try:
            timed_out = not (await asyncio.wait({sending}, timeout=self._seconds))[0]
        finally:
            if not sending.done():
                sending.cancel()
                await asyncio.wait({sending}, timeout=CANCELLATION_SECONDS)
        if timed_out:
            received.error = f"no response within {self._seconds:g} s"
        # A status decides, even if the rest of the response never came.
        failure = received.error if received.status is None else _error_of_status(received.status)
        return Outcome(
            round((time.monotonic() - began) * 1_000),
            received.status,
            _storable(received.answer.decode("utf-8", "replace")),
            _storable(failure[:500]) if failure else None,
            read_retry_after(received.retry_after, datetime.now(UTC)),
        )

    async def _try_to_post(self, message: Message, at: datetime, received: _PartialResponse) -> None:
        try:
            await self._post(message, at, received)
        except RefusedAddressError as error:
            received.error = f"not sent: {error}"
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            received.error = f"{type(error).__name__}: {error}".removesuffix(": ")
        except (OSError, UnicodeError) as error:
            # A name that can't be resolved, or TLS that fails while it is set up.
            received.error = f"{type(error).__name__}: {error}"
        except Exception as error:
            # A response that the HTTP library did not expect. The attempt has failed like any other.
            log.exception("attempt_failed_unexpectedly", notification=message.webhook_id, exc_info=error)
            received.error = f"unexpected {type(error).__name__}"

    async def _post(self, message: Message, at: datetime, received: _PartialResponse) -> None:
        target = self._policy.read_url(message.url)
        request = httpcore.Request(
            "POST",
            httpcore.URL(
                scheme=target.scheme.encode(),
                host=target.host.encode(),
                port=target.port,
                target=target.target.encode(),
            ),
            headers=[
                *{
                    "Host": target.host_header,
                    "User-Agent": "order-management-webhooks/1",
                    "Accept": "*/*",
                    "Accept-Encoding": "identity",
                    "Content-Type": CONTENT_TYPE,
                    "Content-Length": str(len(message.body.encode())),
                    **signed_headers(message, at),
                    **propagation_headers(),
                }.items()
            ],
            content=message.body.encode(),
            extensions={"timeout": {"connect": min(CONNECT_SECONDS, self._seconds)}},
        )
        response = await self._pools[target.scheme].handle_async_request(request)
        try:
            received.status = response.status
            headers = {name.lower(): value for name, value in response.headers}
            received.retry_after = headers.get(b"retry-after", b"").decode("latin-1") or None
            async for chunk in response.aiter_stream():
                received.answer += chunk[: MAX_RESPONSE_BYTES - len(received.answer)]
                if len(received.answer) >= MAX_RESPONSE_BYTES:
                    break
        finally:
            # If more of the response is to come, this closes the connection.
            await response.aclose()

    async def _resolve_with_system(self, host: str, port: int) -> Sequence[Address]:
        loop = asyncio.get_running_loop()
        answers = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [ip_address(address[0]) for *_, address in answers]


@dataclass
class _PartialResponse:
    """What was received of a response so far; kept if the rest never comes."""

    status: int | None = None
    retry_after: str | None = None
    answer: bytes = b""
    error: str | None = None


def _storable(text: str) -> str:
    # PostgreSQL stores neither NUL nor lone surrogates in text.
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _error_of_status(status: int) -> str | None:
    if 200 <= status < 300:  # a class of status codes
        return None
    if 300 <= status < 400:
        return f"answered {status}: redirects are not followed"
    return f"answered {status}"
