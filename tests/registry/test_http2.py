"""HTTP/2 with a real server: one connection for many blobs, both ways, and connections that go away."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.registry.conftest import FAST, Rig, open_rig
from tests.registry.test_push import here
from tests.registry.test_tls import certificate
from tests.support.images import SmallImage, make_image, text_layer
from tests.support.nginx import Asked, Front, nginx
from tests.support.registry import Registry

__all__ = ["certificate"]

H2 = FAST.model_copy(update={"http2": True})


def large(mark: str, layers: int = 5) -> SmallImage:
    """Layers beyond the windows that HTTP/2 opens with, which do not shrink."""
    noise = random.Random(mark)
    texts = [noise.randbytes(3_500_000 // layers).hex() for _ in range(layers)]
    return make_image([text_layer(f"f{number}", text) for number, text in enumerate(texts)], compress=False)


def asked(front: Front, before: int = 0) -> list[Asked]:
    """The requests over TLS: on loopback plain HTTP is tried first, which nginx answers with 400."""
    return [each for each in front.requests[before:] if each.status != 400]


@pytest.fixture(scope="module")
def front(server: Registry, certificate: tuple[Path, Path]) -> Iterator[Front]:
    with nginx(server.address, *certificate) as running:
        yield running


@pytest.fixture
async def h2(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Rig]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    async with open_rig(tmp_path, H2) as rig:
        yield rig


async def test_a_pull_takes_all_blobs_over_one_connection(h2: Rig, server: Registry, front: Front) -> None:
    image = large("pull")
    server.push("h2/pull:1", image)
    before = len(front.requests)
    assert (await h2.pull(f"{front.address}/h2/pull:1")).target.digest == image.digest
    requests = asked(front, before)
    assert {each.protocol for each in requests} == {"HTTP/2.0"}
    assert len({each.connection for each in requests}) == 1
    assert sum("/blobs/" in each.path for each in requests) == len(image.layers) + 1
    assert await h2.digests() == set(image.blobs)


async def test_a_push_sends_all_blobs_over_it(h2: Rig, server: Registry, front: Front) -> None:
    image = large("push")
    name = await here(h2, image, "docker.io/library/h2:1")
    before = len(front.requests)
    await h2.push(name, f"{front.address}/h2/push:1")
    requests = asked(front, before)
    assert {each.protocol for each in requests} == {"HTTP/2.0"}
    assert sum(each.method == "PATCH" for each in requests) == len(image.layers) + 1
    for layer in image.layers:
        assert server.blob_file(layer).read_bytes() == image.blobs[layer]


async def test_a_connection_that_is_told_to_go_away_is_followed_by_another(
    h2: Rig, server: Registry, certificate: tuple[Path, Path]
) -> None:
    image = large("goaway", layers=8)
    server.push("h2/goaway:1", image)
    with nginx(server.address, *certificate, requests=3) as front:
        assert (await h2.pull(f"{front.address}/h2/goaway:1")).target.digest == image.digest
        assert len({each.connection for each in asked(front)}) > 1
        assert asked(front)[0].protocol == "HTTP/2.0"
        await h2.push(f"{front.address}/h2/goaway:1", f"{front.address}/h2/going:1")


async def test_without_it_the_same_server_is_spoken_to_by_http_1(
    tmp_path: Path,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    server: Registry,
    front: Front,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    image = make_image([text_layer("x", "one")])
    server.push("h2/one:1", image)
    before = len(front.requests)
    async with open_rig(tmp_path, H2.model_copy(update={"http2": False})) as rig:
        await rig.pull(f"{front.address}/h2/one:1")
    assert {each.protocol for each in asked(front, before)} == {"HTTP/1.1"}
