"""Challenges: tokens and passwords, and who may see them."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from orlop_plugins.registry.auth import parse_challenges
from orlop_plugins.registry.hosts import base_urls, is_loopback, may_see_credentials
from orlopd.plugin import Credentials, ResolveOptions
from orlopd.plugin.errors import NotFound, OrlopError, Unauthenticated, Unavailable
from tests.registry.conftest import Rig
from tests.support.faulty import FaultyRegistry, Handler, faulty_registry
from tests.support.images import MANIFEST, SmallImage, digest_of, make_image, text_layer

SECRET = "a-very-secret-word"
USER = ResolveOptions(Credentials("user", SECRET))
BASIC = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()
TOKEN = "token-of-the-test"


class Tokens:
    """Makes a faulty registry ask for a bearer token, and serves it."""

    def __init__(
        self, faulty: FaultyRegistry, realm: str = "", scope: str = "repository:test/image:pull"
    ) -> None:
        self.faulty = faulty
        self.answer: dict[str, Any] = {"token": TOKEN}
        self.accepted = f"Bearer {TOKEN}"
        realm = realm or f"http://{faulty.address}/token"
        self.challenge = f'Bearer realm="{realm}",service="tests",scope="{scope}"'
        faulty.on("/token", lambda handler: handler.answer(200, json.dumps(self.answer).encode()))
        faulty.faults.append(self._check)

    def _check(self, handler: Handler, seen: Any) -> bool:
        if seen.header("authorization") == self.accepted:
            return False
        handler.answer(401, b"", {"WWW-Authenticate": self.challenge})
        return True


@pytest.fixture
def elsewhere() -> Iterator[FaultyRegistry]:
    with faulty_registry() as running:
        yield running


def shown(registry: FaultyRegistry) -> set[str]:
    return {seen.header("authorization") for seen in registry.seen} - {""}


async def test_a_token_is_fetched_once_and_used(rig: Rig, faulty: FaultyRegistry) -> None:
    Tokens(faulty)
    await rig.pull(faulty.reference)
    [asked] = faulty.asked("/token")
    assert parse_qs(urlsplit(asked.path).query) == {
        "service": ["tests"],
        "scope": ["repository:test/image:pull"],
    }
    assert asked.header("authorization") == ""
    assert len(faulty.asked("manifests/1")) == 2


async def test_credentials_go_to_the_token_server_of_the_same_host(rig: Rig, faulty: FaultyRegistry) -> None:
    Tokens(faulty)
    await rig.pull(faulty.reference, options=USER)
    assert [seen.header("authorization") for seen in faulty.asked("/token")] == [BASIC]
    assert {seen.header("authorization") for seen in faulty.asked("/v2/")} == {"", f"Bearer {TOKEN}"}


async def test_an_identity_token_is_traded_in(rig: Rig, faulty: FaultyRegistry) -> None:
    tokens = Tokens(faulty)
    tokens.answer = {"access_token": TOKEN}
    await rig.pull(faulty.reference, options=ResolveOptions(Credentials("", SECRET)))
    assert [seen.method for seen in faulty.asked("/token")] == ["POST"]


async def test_a_token_that_expires_is_renewed(rig: Rig, faulty: FaultyRegistry) -> None:
    tokens = Tokens(faulty)

    def expire(handler: Handler) -> None:
        tokens.answer = {"token": "second"}
        tokens.accepted = "Bearer second"
        handler.answer(401, b"", {"WWW-Authenticate": tokens.challenge})

    faulty.faults.insert(0, lambda handler, seen: False)
    faulty.on("blobs", expire, times=1)
    faulty.faults.insert(0, faulty.faults.pop())
    await rig.pull(faulty.reference)
    assert len(faulty.asked("/token")) == 2


async def test_a_challenge_cannot_widen_what_a_token_is_for(rig: Rig, faulty: FaultyRegistry) -> None:
    Tokens(faulty, scope="repository:other/image:pull,push,delete registry:catalog:*")
    await rig.pull(faulty.reference, options=USER)
    [asked] = faulty.asked("/token")
    assert parse_qs(urlsplit(asked.path).query)["scope"] == ["repository:test/image:pull"]


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"token":7}', b'{"token":"two\\r\\nlines"}', b"x" * 100_000]
)
async def test_a_token_server_that_talks_nonsense_is_one_error(
    rig: Rig, faulty: FaultyRegistry, answer: bytes
) -> None:
    Tokens(faulty)
    faulty.on("/token", lambda handler: handler.answer(200, answer))
    faulty.faults.insert(0, faulty.faults.pop())
    with pytest.raises(Unavailable, match="token"):
        await rig.pull(faulty.reference)


async def test_trouble_with_the_token_server_is_told_as_such(
    rig: Rig, faulty: FaultyRegistry, elsewhere: FaultyRegistry
) -> None:
    whose = f"registry {faulty.address}'s token server 127.0.0.1"
    Tokens(faulty, realm="http://127.0.0.1:1/token")
    with pytest.raises(Unavailable, match=f"cannot reach {whose}: connection refused"):
        await rig.pull(faulty.reference)
    faulty.faults.clear()
    Tokens(faulty, realm=f"http://{elsewhere.address}/token")
    elsewhere.on("/token", lambda handler: handler.answer(500))
    with pytest.raises(Unavailable, match=f"{whose} answered 500 when asked for a token"):
        await rig.pull(faulty.reference)


async def test_refused_credentials_are_unauthenticated_and_shown_nowhere(
    rig: Rig, faulty: FaultyRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    Tokens(faulty)

    def echo(handler: Handler) -> None:
        body = json.dumps({"errors": [{"message": f"{SECRET} {handler.headers['Authorization']} is wrong"}]})
        handler.answer(401, body.encode())

    faulty.on("/token", echo)
    faulty.faults.insert(0, faulty.faults.pop())
    with pytest.raises(Unauthenticated) as refused:
        await rig.pull(faulty.reference, options=USER)
    told = f"{refused.value} {refused.value.hint} {refused.value.__cause__!r} {USER!r}"
    for secret in (SECRET, BASIC.partition(" ")[2]):
        assert secret not in told
        assert secret not in caplog.text


async def test_an_error_that_echoes_the_password_is_struck_out(rig: Rig, faulty: FaultyRegistry) -> None:
    def basic(handler: Handler) -> None:
        given = handler.headers.get("Authorization", "")
        body = json.dumps({"errors": [{"message": f"{given} of {SECRET} may not"}]}).encode()
        if given:
            handler.answer(403, body)
        else:
            handler.answer(401, b"", {"WWW-Authenticate": 'Basic realm="tests"'})

    faulty.on("v2", basic)
    with pytest.raises(OrlopError) as refused:
        await rig.pull(faulty.reference, options=USER)
    assert "may not" in refused.value.message
    assert SECRET not in refused.value.message
    assert BASIC.partition(" ")[2] not in refused.value.message


async def test_cve_2020_15157_a_redirect_takes_no_credentials_along(
    rig: Rig, faulty: FaultyRegistry, elsewhere: FaultyRegistry
) -> None:
    Tokens(faulty)
    layer = faulty.served.layers[0]
    elsewhere.on(".", lambda handler: handler.answer(200, faulty.served.blobs[layer]))
    away = {"Location": f"http://{elsewhere.address}/elsewhere"}
    faulty.on(f"GET .*{layer}", lambda handler: handler.answer(307, b"", away))
    await rig.pull(faulty.reference, options=USER)
    assert len(elsewhere.seen) == 1
    assert shown(elsewhere) == set()


async def test_cve_2020_15157_a_challenge_of_another_host_is_not_answered(
    rig: Rig, faulty: FaultyRegistry, elsewhere: FaultyRegistry
) -> None:
    layer = faulty.served.layers[0]
    challenge = {"WWW-Authenticate": f'Basic realm="x", Bearer realm="http://{elsewhere.address}/token"'}
    elsewhere.on(".", lambda handler: handler.answer(401, b"", challenge))
    away = {"Location": f"http://{elsewhere.address}/elsewhere"}
    faulty.on(f"GET .*{layer}", lambda handler: handler.answer(307, b"", away))
    with pytest.raises(Unauthenticated):
        await rig.pull(faulty.reference, options=USER)
    assert [seen.path for seen in elsewhere.seen] == ["/elsewhere"]
    assert shown(elsewhere) == set()


async def test_cve_2020_15157_no_credentials_go_to_a_realm_of_another_host(
    rig: Rig, faulty: FaultyRegistry, elsewhere: FaultyRegistry
) -> None:
    port = elsewhere.address.rpartition(":")[2]
    Tokens(faulty, realm=f"http://localhost:{port}/token")
    with pytest.raises(Unauthenticated, match="localhost for a token, which is another host") as refused:
        await rig.pull(faulty.reference, options=USER)
    assert "token_hosts" in refused.value.hint
    assert elsewhere.seen == []


async def test_cve_2020_15157_an_image_sends_nobody_to_loopback_or_plain_http_for_a_layer(rig: Rig) -> None:
    image = make_image([text_layer("x", "x")])
    manifest = image.document()
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    manifest["layers"][0] |= {
        "mediaType": foreign,
        "urls": ["https://127.0.0.1:1/x", "http://foreign.invalid/x"],
    }
    data = json.dumps(manifest).encode()
    target = {"mediaType": MANIFEST, "digest": digest_of(data), "size": len(data)}
    config = manifest["config"]["digest"]
    served = SmallImage(target, {digest_of(data): data, config: image.blobs[config]})
    with faulty_registry(served) as server:
        with pytest.raises(NotFound):
            await rig.pull(server.reference, options=USER)
        assert len(server.asked("blobs")) == 2


@pytest.mark.parametrize(
    ("realm", "registry", "trusted", "allowed"),
    [
        ("https://auth.docker.io/token", "https://registry-1.docker.io/v2/", (), True),
        ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com/v2/", (), True),
        ("https://ghcr.io/token", "https://ghcr.io/v2/", (), True),
        ("https://auth.quay.io/token", "https://quay.io/v2/", (), True),
        ("https://evil.example/token", "https://registry.gitlab.com/v2/", (), False),
        ("https://evilgitlab.com/token", "https://registry.gitlab.com/v2/", (), False),
        ("https://gitlab.com.evil.example/", "https://registry.gitlab.com/v2/", (), False),
        ("http://registry.gitlab.com/", "https://registry.gitlab.com/v2/", (), False),
        ("https://evil.co.uk/token", "https://registry.co.uk/v2/", (), False),
        ("https://login.example/token", "https://registry.gitlab.com/v2/", ("login.example",), True),
        ("http://login.example/token", "https://registry.gitlab.com/v2/", ("login.example",), False),
        ("https://10.0.0.2/token", "https://10.0.0.1:5000/v2/", (), False),
        ("http://127.0.0.1:1/token", "http://127.0.0.1:2/v2/", (), True),
        ("https://io/token", "https://ghcr.io/v2/", (), False),
    ],
)
def test_cve_2020_15157_who_may_see_credentials(
    realm: str, registry: str, trusted: tuple[str, ...], allowed: bool
) -> None:
    assert may_see_credentials(httpx.URL(realm), httpx.URL(registry), trusted) is allowed


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Bearer realm="https://a/b?c=d",service="s",scope="x:y:pull,push"', [("bearer", "https://a/b?c=d")]),
        ('bearer Realm=unquoted, service = "s"', [("bearer", "unquoted")]),
        ('Basic realm="a \\"quoted\\" word"', [("basic", 'a "quoted" word')]),
        (
            'Negotiate, Basic realm="x", Bearer realm="y"',
            [("negotiate", None), ("basic", "x"), ("bearer", "y")],
        ),
        ("", []),
        ("=,=,,", []),
        ('Bearer realm="unterminated', [("bearer", None)]),
    ],
)
def test_challenges_are_read(header: str, found: list[tuple[str, str | None]]) -> None:
    challenges = parse_challenges([header])
    assert [(each.scheme, each.parameters.get("realm")) for each in challenges] == found


@pytest.mark.parametrize("piece", [" ", "a ", 'a="', "a=", "\\", ", "])
@pytest.mark.timeout(30)
def test_an_evil_challenge_burns_no_time(piece: str) -> None:
    header = piece * 60_000
    parse_challenges([header, f"Bearer {header}", f'Bearer realm="{header}'])


def test_plain_http_is_for_loopback_or_by_word() -> None:
    assert [str(url) for url in base_urls("docker.io", False)] == ["https://registry-1.docker.io/v2/"]
    assert [url.scheme for url in base_urls("127.0.0.1:5000", False)] == ["http", "https"]
    assert [url.scheme for url in base_urls("registry.example", False)] == ["https"]
    assert [url.scheme for url in base_urls("registry.example:80", True)] == ["http"]
    for host, loopback in {
        "localhost": True,
        "127.1.2.3": True,
        "[::1]": True,
        "sub.localhost": True,
        "localhost.example": False,
        "10.0.0.1": False,
        "0.0.0.0": False,
    }.items():
        assert is_loopback(host) is loopback
