"""The only outbound HTTP: signed, to the checked address, within limits of time and size."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest
import structlog
from standardwebhooks import Webhook, WebhookVerificationError

from shared.webhook_addresses import Address, AddressPolicy, read_networks
from stack.embedded_valkey import free_port
from tests.webhook_receiver import CERTIFICATE, Answer, Receiver
from worker.webhooks.client import (
    MAX_RESPONSE_BYTES,
    Message,
    Outcome,
    WebhookClient,
    signed_headers,
)
from worker.webhooks.connections import Resolve

SECRET = "whsec_dGhpcnR5LXR3byBieXRlcyBvZiBub3RoaW5nIHNlY3JldA=="
OTHER = "whsec_YW5vdGhlciBzZWNyZXQsIG9mIG90aGVyIGJ5dGVzIHN0aWxs"
HERE = AddressPolicy(read_networks("127.0.0.0/8,::1/128"))


def resolver(*answers: str) -> tuple[Resolve, list[str]]:
    """Make a resolver that returns these addresses, one set per query, and records the names."""
    resolved: list[str] = []

    async def resolve(host: str, _port: int) -> Sequence[Address]:
        resolved.append(host)
        addresses = answers[min(len(resolved), len(answers)) - 1]
        return [ip_address(address) for address in addresses.split(",")]

    return resolve, resolved


def attempt(
    url: str,
    *,
    seconds: float = 5,
    resolve: Resolve | None = None,
    ca_file: str = "",
    times: int = 1,
    policy: AddressPolicy = HERE,
) -> list[Outcome]:
    """Attempt a delivery some times, with one client."""

    async def go() -> list[Outcome]:
        async with WebhookClient(
            policy, seconds=seconds, at_once=4, resolve=resolve, ca_file=ca_file
        ) as client:
            message = Message(url, "evt", '{"fee":100.00,"name":"Prüfung"}', [SECRET, OTHER])
            return [await client.attempt(message) for _ in range(times)]

    return asyncio.run(go())


def test_every_valid_secret_of_a_webhook_signs_the_bytes_that_are_sent(receiver: Receiver) -> None:
    """Verified from outside, with the library."""
    (outcome,) = attempt(receiver.url)
    assert outcome.delivered
    (request,) = receiver.received
    assert request.is_signed_with(SECRET)
    assert request.is_signed_with(OTHER)
    assert request.body == '{"fee":100.00,"name":"Prüfung"}'.encode()
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 10
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body + b" ", dict(request.headers))


def test_the_signature_matches_the_standards_own_example() -> None:
    """A test vector that was not made by this code."""
    message = Message(
        "", "msg_p5jXN8AQM9LWM0D4loKWxJek", '{"test": 2432232314}', ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
    )
    headers = signed_headers(message, datetime.fromtimestamp(1614265330, UTC))
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"


def test_a_host_name_is_resolved_once_and_the_checked_address_is_used(receiver: Receiver) -> None:
    """The Host header stays the URL's."""
    resolve, resolved = resolver("127.0.0.1", "169.254.169.254")
    (outcome,) = attempt(f"http://receiver.test:{receiver.port}/hook", resolve=resolve)
    assert outcome.delivered
    assert resolved == ["receiver.test"]
    assert receiver.received[0].headers["host"] == f"receiver.test:{receiver.port}"


def test_a_host_name_that_changes_to_a_forbidden_address_is_refused(receiver: Receiver) -> None:
    """DNS rebinding: the address is checked again for each connection."""
    receiver.answer = lambda _: Answer(headers={"Connection": "close"})
    resolve, resolved = resolver("127.0.0.1", "169.254.169.254")
    first, second = attempt(f"http://receiver.test:{receiver.port}/hook", resolve=resolve, times=2)
    assert first.delivered
    assert len(resolved) == 2
    assert second.status is None
    assert second.error
    assert "the address of receiver.test is not allowed" in second.error
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    "addresses",
    ["127.0.0.1,169.254.169.254", "10.0.0.1", "::ffff:10.0.0.1,127.0.0.1", "fe80::1", "0.0.0.0"],
)
def test_a_host_name_with_one_forbidden_address_is_refused(receiver: Receiver, addresses: str) -> None:
    """It is refused in either order of its addresses."""
    resolve, _ = resolver(addresses)
    (outcome,) = attempt(f"http://receiver.test:{receiver.port}/hook", resolve=resolve)
    assert outcome.error
    assert outcome.error.startswith("not sent: ")
    assert receiver.received == []


@pytest.fixture
def events() -> Iterator[list[Any]]:
    """What the test logs."""
    with structlog.testing.capture_logs() as logged:
        yield logged


@pytest.mark.parametrize(
    ("scheme", "address"),
    [
        *(
            (scheme, address)
            for scheme in ("http", "https")
            for address in ("10.1.2.3", "169.254.169.254", "::ffff:10.1.2.3", "fe80::1")
        ),
        ("http", "8.8.4.4"),
    ],
)
def test_an_attempt_does_not_say_what_a_forbidden_name_resolves_to(
    scheme: str, address: str, events: list[Any]
) -> None:
    """Its caller may not know the deployment's network. The log has the address."""
    resolve, _ = resolver(address)
    (outcome,) = attempt(f"{scheme}://db.internal/", resolve=resolve)
    assert outcome.error
    assert outcome.error.startswith("not sent: the address of db.internal is not allowed")
    assert str(ip_address(address)) not in outcome.error
    (event,) = events
    assert f"{ip_address(address)} is " in str(event)


def test_tls_verifies_the_host_name_of_the_url() -> None:
    """A name that is not in the certificate fails, although the address is the same."""
    with Receiver(tls=True) as receiver:
        resolve, _ = resolver("127.0.0.1")
        good, bad = f"https://receiver.test:{receiver.port}/", f"https://other.test:{receiver.port}/"
        (trusted,) = attempt(good, resolve=resolve, ca_file=str(CERTIFICATE))
        (stranger,) = attempt(bad, resolve=resolve, ca_file=str(CERTIFICATE))
        (untrusted,) = attempt(good, resolve=resolve)
        assert trusted.delivered
        assert stranger.error
        assert "CERTIFICATE_VERIFY_FAILED" in stranger.error
        assert untrusted.error
        assert "CERTIFICATE_VERIFY_FAILED" in untrusted.error
        assert len(receiver.received) == 1


def test_a_second_address_is_tried_when_the_first_refuses_the_connection(receiver: Receiver) -> None:
    """Nothing listens on the first address."""
    resolve, _ = resolver("127.0.0.2,127.0.0.1")
    (outcome,) = attempt(f"http://receiver.test:{receiver.port}/hook", resolve=resolve)
    assert outcome.delivered


def test_webhook_requests_ignore_the_environments_proxies(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would resolve the name again, and connect elsewhere."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert attempt(receiver.url)[0].delivered


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_webhook_redirect_is_not_followed(receiver: Receiver, status: int) -> None:
    """Its target was not checked, nor requested by the subscriber."""
    receiver.answer = lambda _: Answer(status, {"Location": receiver.url + "/again"})
    (outcome,) = attempt(receiver.url)
    assert (outcome.status, outcome.error) == (status, f"answered {status}: redirects are not followed")
    assert len(receiver.received) == 1


def test_only_the_beginning_of_a_webhook_answer_is_read(receiver: Receiver) -> None:
    """An endpoint that answers without end costs 2 KB."""
    receiver.answer = lambda _: Answer(500, {"Content-Length": str(10**12)}, b"\0\xff" + b"x" * 5_000_000)
    began = time.monotonic()
    (outcome,) = attempt(receiver.url)
    assert time.monotonic() - began < 4
    assert outcome.answer == "\ufffd\ufffd" + "x" * (MAX_RESPONSE_BYTES - 2)


def test_an_attempt_ends_at_its_time_limit_however_slowly_it_is_answered(receiver: Receiver) -> None:
    """The limit is for the whole attempt, not for each read."""
    receiver.answer = lambda _: Answer(after=30)
    (silent,) = attempt(receiver.url, seconds=0.5)
    assert (silent.status, silent.error) == (None, "no response within 0.5 s")
    receiver.answer = lambda _: Answer(200, body=b"x" * 1_000, pauses=0.1)
    began = time.monotonic()
    (trickling,) = attempt(receiver.url, seconds=0.5)
    assert time.monotonic() - began < 3
    assert trickling.delivered, "the status had arrived: what follows it does not matter"
    assert 1 <= len(trickling.answer) < 100


def test_an_attempt_ends_at_its_time_limit_when_the_resolver_hangs() -> None:
    """Other attempts do not wait for it."""

    async def resolve(_host: str, _port: int) -> Sequence[Address]:
        await asyncio.sleep(30)
        return []

    (outcome,) = attempt("http://receiver.test/", seconds=0.3, resolve=resolve)
    assert outcome.error == "no response within 0.3 s"


def test_every_failure_of_an_endpoint_is_an_outcome_and_not_an_exception() -> None:
    """Closed ports, closed connections, answers that are not HTTP, names that do not exist."""

    def answers_with(sent: bytes) -> Callable[[], tuple[str, socket.socket]]:
        def listen() -> tuple[str, socket.socket]:
            server = socket.create_server(("127.0.0.1", 0))

            def serve() -> None:
                connection, _ = server.accept()
                connection.recv(65_536)
                connection.sendall(sent)
                connection.close()

            import threading

            threading.Thread(target=serve, daemon=True).start()
            return f"http://127.0.0.1:{server.getsockname()[1]}/", server

        return listen

    for sent in (
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 999999 no\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000,
    ):
        url, server = answers_with(sent)()
        with server:
            (outcome,) = attempt(url)
        assert outcome.status is None, sent[:20]
        assert outcome.error, sent[:20]
    for url in (
        f"http://127.0.0.1:{free_port()}/",
        "http://no-such-host.invalid/",
        "https://127.0.0.1:22/",
        "not a url",
    ):
        (outcome,) = attempt(url)
        assert outcome.status is None, url
        assert outcome.error, url
