"""Access tokens of an identity provider, and the keys that it publishes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from api.http.times import utc_text
from shared.settings import SettingsError, settings
from tests.builders import later, order_body
from tests.drivers import wait_until
from tests.identity_provider import AUDIENCE, ISSUER, IdentityProvider, claims, part
from tests.key_steps import bearer, make_key
from tests.processes import NO_REDIS, ServiceProcess
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.drivers import Api, Database


@pytest.fixture(scope="module")
def served(postgres_url: str, provider: IdentityProvider) -> Iterator[tuple[Api, ServiceProcess]]:
    """An API that trusts the provider, and its process."""
    quick = {**provider.settings, "OMS_STREAM_SILENCE": "1"}
    with serving(database=postgres_url, redis=NO_REDIS, **quick) as served:
        yield served


@pytest.fixture
def trusting(served: tuple[Api, ServiceProcess], database: Database) -> Api:
    """An API that trusts the provider, with services."""
    database.add_services()
    return served[0]


def refusal(api: Api, token: str, status: int = 401) -> str:
    """List orders with a token that must be refused; return why."""
    answer = api.client.get("/orders", headers=bearer(token))
    assert answer.status_code == status, (answer.status_code, answer.text)
    if status == 401:
        assert answer.headers["www-authenticate"] == 'Bearer realm="orders", error="invalid_token"'
    return str(answer.json()["detail"])


def test_a_token_opens_what_its_scopes_name(trusting: Api, provider: IdentityProvider) -> None:
    """Scopes of other services are ignored; a lacking one is named, also for programs (RFC 6750)."""
    token = bearer(provider.token(scope="openid orders:read email orders:write orders:destroy"))
    placed = trusting.client.post("/orders", json=order_body(at=later(days=1)), headers=token)
    assert placed.status_code == 201, placed.text
    assert trusting.client.get("/orders", headers=token).status_code == 200
    answer = trusting.client.get("/order-changes", headers=token)
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")
    assert answer.json()["detail"] == "The token of sub:alice lacks the scope changes:read."
    challenge = 'Bearer realm="orders", error="insufficient_scope", scope="changes:read"'
    assert answer.headers["www-authenticate"] == challenge
    as_list = bearer(provider.token(scope=None, scp=["orders:read"]))
    assert trusting.client.get("/orders", headers=as_list).status_code == 200
    assert trusting.client.get("/metrics", headers=as_list).status_code == 200
    nothing = bearer(provider.token(scope="email"))
    assert trusting.client.get("/metrics", headers=nothing).status_code == 403
    without = trusting.client.get("/orders")
    assert (without.status_code, without.headers["www-authenticate"]) == (401, 'Bearer realm="orders"')


def test_a_caller_learns_what_its_token_allows(trusting: Api, provider: IdentityProvider) -> None:
    """It expires half a minute after its `exp`, as clocks may differ."""
    ends = int(time.time()) + 3_600
    token = bearer(provider.token(scope="openid orders:write orders:read", exp=ends))
    assert trusting.client.get("/caller", headers=token).json() == {
        "name": "sub:alice",
        "scopes": ["orders:read", "orders:write"],
        "reads_all": False,
        "expires_at": utc_text(datetime.fromtimestamp(ends + 30, UTC)),
        "keys_required": True,
    }
    nothing = trusting.client.get("/caller", headers=bearer(provider.token(scope="email")))
    assert nothing.status_code == 403
    assert nothing.json()["detail"] == "The token of sub:alice lacks every scope of this service."


def test_the_subject_of_a_token_is_the_actor(
    trusting: Api, provider: IdentityProvider, database: Database
) -> None:
    """With a prefix, so that it is never taken for an API key's name; without ``sub``, it is the client."""
    callers: dict[str, dict[str, Any]] = {
        "sub:office": {"sub": "office"},
        "client:robot|7": {"sub": None, "client_id": "robot|7"},
    }
    for day, (name, more) in enumerate(callers.items(), 1):
        token = bearer(provider.token(scope="orders:write changes:read", **more))
        placed = trusting.client.post("/orders", json=order_body(at=later(days=day)), headers=token)
        assert placed.status_code == 201, placed.text
        feed = trusting.client.get("/order-changes", params={"actor": name}, headers=token)
        assert feed.status_code == 200, feed.text
    actors = database.rows("SELECT actor FROM order_change ORDER BY id")
    assert [row["actor"] for row in actors] == list(callers)


def test_api_keys_are_accepted_beside_tokens(trusting: Api, database: Database) -> None:
    """Those of the database; an unknown key is 401 as ever."""
    key = make_key(database, "shop", "orders:read")
    time.sleep(1)
    assert trusting.client.get("/orders", headers=bearer(key)).status_code == 200
    assert "access token" in refusal(trusting, "a.b")


def _with_secret(key: Any, kid: str) -> str:
    """Sign with the public key as if it were a shared secret."""
    signed = f"{part({'alg': 'HS256', 'kid': kid})}.{part(claims())}"
    digest = hmac.new(key.as_pem(private=False), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


HEADER = '{"alg":"RS256","kid":"first"}'
HOSTILE: dict[str, tuple[Callable[[IdentityProvider], str], str]] = {
    "alg none": (lambda _: f"{part({'alg': 'none'})}.{part(claims())}.", "alg"),
    "alg None with a signature": (lambda p: p.token(header={"alg": "None"}), "alg"),
    "alg is a list": (lambda p: p.token(header={"alg": ["RS256"]}), "alg"),
    "public key as a secret": (lambda p: _with_secret(p.key, "first"), "alg"),
    "no signature": (lambda p: p.token().rpartition(".")[0] + ".", "not signed"),
    "another's signature": (
        lambda p: p.token(key=RSAKey.generate_key(2048, {"kid": "first"})),
        "not signed by the identity provider",
    ),
    "changed claims": (
        lambda p: ".".join(
            (p.token().split(".")[0], part(claims(scope="keys:manage")), p.token().split(".")[2])
        ),
        "not signed",
    ),
    "an algorithm of another type of key": (lambda p: p.token(header={"alg": "ES256"}), "kid"),
    "key of another type, same id": (
        lambda p: p.token(key=ECKey.generate_key("P-256", {"kid": "first"})),
        "kid",
    ),
    "key in the header": (
        lambda p: p.token(
            key=(own := RSAKey.generate_key(2048, {"kid": "own"})), header={"jwk": own.as_dict(private=False)}
        ),
        "kid",
    ),
    "key at an address": (lambda p: p.token(header={"kid": "x", "jku": "http://127.0.0.1:1/"}), "kid"),
    "kid is a number": (lambda p: p.token(header={"kid": 7}), "kid"),
    "kid is a path": (lambda p: p.token(header={"kid": "../../dev/null"}), "kid"),
    "crit": (lambda p: p.token(header={"crit": ["exp"]}), "crit"),
    "unencoded payload": (lambda p: p.token(header={"crit": ["b64"], "b64": False}), "crit"),
    "for logging out": (lambda p: p.token(header={"typ": "logout+jwt"}), "typ"),
    "another audience": (lambda p: p.token(aud="billing"), "audience"),
    "no audience": (lambda p: p.token(aud=None), "aud"),
    "audiences that are numbers": (lambda p: p.token(aud=[AUDIENCE, 7]), "audience"),
    "another issuer": (lambda p: p.token(iss=f"{ISSUER}/"), "issuer"),
    "no issuer": (lambda p: p.token(iss=None), "iss"),
    "issuers": (lambda p: p.token(iss=[ISSUER]), "issuer"),
    "expired": (lambda p: p.token(exp=int(time.time()) - 31), "expired"),
    "no expiry": (lambda p: p.token(exp=None), "exp"),
    "expiry is text": (lambda p: p.token(exp="2999-01-01"), "exp"),
    "expiry is true": (lambda p: p.token(exp=True), "exp"),
    "expiry is huge": (lambda p: p.token(exp=10**400), "exp"),
    "expiry after the year 9999": (lambda p: p.token(exp=300_000_000_000), "exp"),
    "expiry before time began": (lambda p: p.token(exp=-1), "expired"),
    "expiry is infinite": (
        lambda p: p.signed(HEADER, json.dumps(claims()).replace('"exp": ', '"exp": 1e999, "x": ')),
        "exp|number",
    ),
    "expiry is not a number": (
        lambda p: p.signed(HEADER, json.dumps(claims()).replace('"exp": ', '"exp": NaN, "x": ')),
        "NaN",
    ),
    "not yet": (lambda p: p.token(nbf=int(time.time()) + 60), "nbf"),
    "of the future": (lambda p: p.token(iat=int(time.time()) + 60), "iat"),
    "no subject": (lambda p: p.token(sub=None), "sub"),
    "a long subject": (lambda p: p.token(sub="s" * 97), "sub"),
    "a subject with a line break": (lambda p: p.token(sub="a\nb"), "sub"),
    "a subject that is an object": (lambda p: p.token(sub={"id": 1}), "sub"),
    "scope is a number": (lambda p: p.token(scope=7), "scope"),
    "scopes of objects": (lambda p: p.token(scope=[{}]), "scope"),
    "a claim twice": (
        lambda p: p.signed(HEADER, json.dumps(claims())[:-1] + ', "scope": "keys:manage"}'),
        "'scope' twice",
    ),
    "a member of the header twice": (
        lambda p: p.signed('{"alg":"HS256","alg":"RS256","kid":"first"}', claims()),
        "'alg' twice",
    ),
    "claims that are a list": (lambda p: p.signed(HEADER, [claims()]), "not a JSON object"),
    "claims that are no JSON": (lambda p: p.signed(HEADER, "{'exp': 1}"), "not JSON"),
    "nested deep": (lambda p: p.signed(HEADER, '{"x":' * 1_500 + "1" + "}" * 1_500), "nested too deep"),
    "a header nested deep": (lambda p: p.signed("[" * 2_000, claims()), "nested too deep|not JSON"),
    "no base64": (lambda p: "a" + p.token(), "base64|UTF-8|JSON"),
    "huge": (lambda p: p.token(padding="x" * 20_000), "16,384"),
    "a huge header": (lambda p: p.token(header={"x5c": ["x" * 5_000]}), "verified"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_token_that_is_not_valid_is_refused_and_told_why(
    trusting: Api, provider: IdentityProvider, kind: str
) -> None:
    """401, whatever is wrong with it: never 500, and never accepted."""
    make, reason = HOSTILE[kind]
    detail = refusal(trusting, make(provider))
    assert detail.startswith("The access token "), detail
    assert re.search(reason, detail), detail


def test_clocks_may_differ_by_half_a_minute(trusting: Api, provider: IdentityProvider) -> None:
    """The provider's and this service's."""
    now = int(time.time())
    for more in ({"exp": now - 20}, {"nbf": now + 20}, {"iat": now + 20}, {"exp": now + 60.5}):
        assert trusting.client.get("/orders", headers=bearer(provider.token(**more))).status_code == 200, more


def test_all_kinds_of_keys_are_accepted_that_are_for_signatures(
    postgres_url: str, database: Database
) -> None:
    """Others in the set are ignored: for encryption, symmetric, too short, or not understood."""
    database.add_services()
    curve, edwards = ECKey.generate_key("P-256", {"kid": "ec"}), OKPKey.generate_key("Ed25519", {"kid": "ed"})
    encryption = RSAKey.generate_key(2048, {"kid": "enc", "use": "enc"})
    with IdentityProvider() as own:
        own.publish(own.key, curve, edwards, encryption)
        own.published += [
            {"kty": "oct", "kid": "secret", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"},
            {"kty": "lattice", "kid": "new"},
            {"kty": "RSA", "kid": "broken", "n": "AQAB" * 100, "e": 3},
            {"kty": "EC", "kid": "off", "crv": "P-256", "x": "AQ", "y": "AQ"},
            {"kty": "RSA", "kid": "short", "n": "u" * 170, "e": "AQAB"},
        ]
        with serving(database=postgres_url, redis=NO_REDIS, **own.settings) as (api, _):
            for key in (own.key, curve, edwards):
                assert api.client.get("/orders", headers=bearer(own.token(key=key))).status_code == 200, (
                    key.kid
                )
            old_name = bearer(own.token(key=edwards, header={"alg": "EdDSA"}))
            assert api.client.get("/orders", headers=old_name).status_code == 200
            assert "kid" in refusal(api, own.token(key=encryption))
            without_id = bearer(own.token(header={"kid": None}))
            assert api.client.get("/orders", headers=without_id).status_code == 200
            pss = own.token(header={"alg": "PS256"})
            assert "not signed" in refusal(api, pss)
            assert own.reads == 1


def test_a_new_key_of_the_provider_counts_at_once_and_an_old_one_no_longer(
    postgres_url: str, database: Database
) -> None:
    """A thousand made-up key ids make the service ask the provider once in five seconds, not more."""
    database.add_services()
    with (
        IdentityProvider() as own,
        serving(database=postgres_url, redis=NO_REDIS, **own.settings) as (api, process),
    ):
        assert api.client.get("/orders", headers=bearer(own.token())).status_code == 200
        began = time.monotonic()

        def send_made_up(_: int) -> int:
            made_up = own.token(header={"kid": secrets.token_hex(8)})
            return api.client.get("/orders", headers=bearer(made_up)).status_code

        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(send_made_up, range(1_000))) == {401}
        assert own.reads <= 2 + (time.monotonic() - began) / 5
        assert api.client.get("/orders", headers=bearer(own.token())).status_code == 200
        old, own.key = own.key, RSAKey.generate_key(2048, {"kid": "second"})
        own.publish(own.key)
        token = bearer(own.token())
        wait_until(
            lambda: api.client.get("/orders", headers=token).status_code == 200, "the new key counts", 6
        )
        assert "kid" in refusal(api, own.token(key=old))
        own.status, reads = 500, own.reads
        wait_until(lambda: bool(refusal(api, own.token(key=old))) and own.reads > reads, "it asks again", 7)
        assert api.client.get("/orders", headers=token).status_code == 200
        assert "answered 500" in process.log


UNUSABLE: tuple[tuple[bytes, int, str], ...] = (
    (b"{}", 302, "redirects are not followed"),
    (b"<html>", 200, "is not JSON"),
    (b'{"keys": {}}', 200, "not a JWK set"),
    (b'{"keys": [], "keys": []}', 200, "twice"),
    (b'{"keys": [], "x": "' + b"x" * 600_000 + b'"}', 200, "has more than"),
)


def test_without_keys_of_the_provider_a_token_is_503_and_an_api_key_works(
    postgres_url: str, database: Database
) -> None:
    """It is not known whether the token is valid, so it is not 401. Once there are keys, it is accepted."""
    database.add_services()
    key = make_key(database, "shop", "orders:read")
    with (
        IdentityProvider() as own,
        serving(database=postgres_url, redis=NO_REDIS, **own.settings) as (api, process),
    ):
        token = bearer(own.token())
        for own.answer, own.status, reason in UNUSABLE:
            reads = own.reads

            def is_read_again(reads: int = reads) -> bool:
                refused = api.client.get("/orders", headers=token)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert "identity provider" in refused.json()["detail"]
                return own.reads > reads

            wait_until(is_read_again, "it asks again", 5)
            assert reason in process.log
            assert api.client.get("/orders", headers=bearer(key)).status_code == 200
        own.answer, own.status = None, 200
        wait_until(lambda: api.client.get("/orders", headers=token).status_code == 200, "accepted", 5)


def test_a_provider_that_does_not_answer_delays_nobody_else(postgres_url: str, database: Database) -> None:
    """A request with a token waits two seconds for the keys; others do not wait."""
    database.add_services()
    key = make_key(database, "shop", "orders:read")
    with (
        IdentityProvider() as own,
        serving(database=postgres_url, redis=NO_REDIS, **own.settings) as (api, _),
        ThreadPoolExecutor(1) as thread,
    ):
        own.delay = 4.0
        began = time.monotonic()
        waiting = thread.submit(api.client.get, "/orders", headers=bearer(own.token()))
        assert api.client.get("/orders", headers=bearer(key)).status_code == 200
        assert time.monotonic() - began < 1.5
        assert waiting.result().status_code == 503
        assert 1.5 < time.monotonic() - began < 3.5


def test_keys_can_be_in_a_file(postgres_url: str, database: Database, tmp_path: Path) -> None:
    """It is read again for an unknown key id, as an address is."""
    database.add_services()
    file = tmp_path / "keys.json"
    with IdentityProvider() as own:
        file.write_text(json.dumps({"keys": own.published}))
    with serving(database=postgres_url, redis=NO_REDIS, **own.settings | {"OMS_JWKS": str(file)}) as (api, _):
        assert api.client.get("/orders", headers=bearer(own.token())).status_code == 200


def test_a_stream_ends_when_its_token_expires(trusting: Api, provider: IdentityProvider) -> None:
    """With the half minute for differing clocks; it asks the client to come back."""
    token = bearer(provider.token(scope="changes:read", exp=int(time.time()) - 26))
    began = time.monotonic()
    with trusting.client.stream("GET", "/order-changes/stream", headers=token) as stream:
        assert stream.status_code == 200
        lines = list(stream.iter_lines())
    assert 2 < time.monotonic() - began < 8
    assert lines[-1].startswith("retry: ")
    assert trusting.client.get("/order-changes", headers=token).status_code == 401


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"jwks": "https://id.example/keys"}, "OMS_JWKS: needs OMS_JWT_ISSUER and OMS_JWT_AUDIENCE"),
        ({"jwks": "https://id.example/keys", "jwt_issuer": "x"}, "OMS_JWKS: needs OMS_JWT_AUDIENCE too"),
        ({"jwks": "https://id.example/keys", "jwt_issuer": "x", "jwt_audience": " "}, "OMS_JWT_AUDIENCE"),
        ({"jwt_issuer": "x", "jwt_audience": "y"}, "no meaning without OMS_JWKS"),
        ({"jwks": "/no/such/file", "jwt_issuer": "x", "jwt_audience": "y"}, "OMS_JWKS can't be read"),
        ({"jwks": "ftp://id.example/keys"}, "OMS_JWKS: must be an https: or http: address"),
        ({"jwks": "https://u:p@id.example/keys"}, "OMS_JWKS: must not have a user name"),
        ({"jwks": "https://id.example:99999/keys"}, "OMS_JWKS: must be an https: or http: address"),
        ({"jwks": "https:///keys"}, "OMS_JWKS: must be an https: or http: address"),
    ],
    ids=str,
)
def test_half_of_the_settings_is_refused_at_the_start(
    setting: Callable[..., None], given: dict[str, str], reason: str
) -> None:
    """A deployment that forgot the audience would accept tokens for all other services."""
    setting(**given)
    with pytest.raises(SettingsError, match=reason):
        settings()


def test_where_there_is_a_provider_keys_are_asked_for(setting: Callable[..., None]) -> None:
    """So the API may listen on any address, as with API keys."""
    setting(jwks="https://id.example/keys", jwt_issuer=ISSUER, jwt_audience=AUDIENCE)
    assert settings().asks_for_keys


def test_no_token_is_ever_logged(
    served: tuple[Api, ServiceProcess], trusting: Api, provider: IdentityProvider
) -> None:
    """Neither valid nor invalid ones."""
    valid, invalid = provider.token(), provider.token(aud="elsewhere")
    assert trusting.client.get("/orders", headers=bearer(valid)).status_code == 200
    refusal(trusting, invalid)
    log = served[1].log
    assert "answered" in log
    for token in (valid, invalid):
        assert not any(piece in log for piece in token.split(".")[1:])
