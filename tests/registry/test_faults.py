"""Registries that fail on the way: success after a retry, or one clear error; what came is gone on from."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import anyio
import httpx
import pytest

from orlop_plugins.registry.transport import Transport
from orlopd.core.progress import BlobState
from orlopd.plugin.errors import (
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from tests.registry.conftest import FAST, NOTHING, SCOPE, Rig, open_rig
from tests.registry.faults import blob, layer_path
from tests.support.daemon import eventually
from tests.support.faulty import FaultyRegistry, Handler, faulty_registry


async def test_the_faulty_registry_serves_when_not_told_otherwise(rig: Rig, faulty: FaultyRegistry) -> None:
    assert (await rig.pull(faulty.reference)).target.digest == faulty.served.digest


async def test_connections_are_used_again(rig: Rig, faulty: FaultyRegistry) -> None:
    await rig.pull(faulty.reference)
    assert len(faulty.seen) == 5
    assert len({seen.peer for seen in faulty.seen}) <= 3  # two layers come at once


async def test_a_blob_that_breaks_off_is_taken_up_by_range(rig: Rig, faulty: FaultyRegistry) -> None:
    faulty.on(layer_path(faulty), lambda handler: handler.cut(blob(faulty), 30), times=1)
    await rig.pull(faulty.reference)
    assert [seen.header("range") for seen in faulty.asked(layer_path(faulty))] == ["", "bytes=30-"]


async def test_a_server_without_ranges_sends_again_and_the_beginning_is_dropped(
    rig: Rig, faulty: FaultyRegistry
) -> None:
    faulty.on(layer_path(faulty), lambda handler: handler.cut(blob(faulty), 30), times=1)
    faulty.on(layer_path(faulty), lambda handler: handler.answer(200, blob(faulty)))
    await rig.pull(faulty.reference)


async def test_a_blob_that_always_breaks_off_is_one_error_and_a_resumable_ingest(
    rig: Rig, faulty: FaultyRegistry
) -> None:
    def cut(handler: Handler) -> None:
        handler.answer(416) if handler.headers.get("Range") else handler.cut(blob(faulty), 30)

    faulty.on(layer_path(faulty), cut)
    with pytest.raises(Unavailable):
        await rig.pull(faulty.reference)
    left = await rig.left_but_ingests(faulty.served.layers[1])
    ref = f"layer-{faulty.served.layers[0]}"
    assert left == NOTHING | {"ingests": [ref]}
    assert (await rig.store.content.status(SCOPE, ref)).offset == 30
    faulty.faults.clear()
    faulty.seen.clear()
    await rig.pull(faulty.reference)
    assert [seen.header("range") for seen in faulty.asked(layer_path(faulty))] == ["bytes=30-"]


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
async def test_a_passing_trouble_is_tried_again(rig: Rig, faulty: FaultyRegistry, status: int) -> None:
    for pattern in ("HEAD", "GET .*/manifests/", layer_path(faulty)):
        faulty.on(pattern, lambda handler: handler.answer(status), times=2)
    assert (await rig.pull(faulty.reference)).target.digest == faulty.served.digest


async def test_lasting_trouble_is_one_error(rig: Rig, faulty: FaultyRegistry) -> None:
    body = json.dumps(
        {"errors": [{"code": "UNKNOWN", "message": "disk\x1b[2J full\n" + "x" * 9999}]}
    ).encode()
    faulty.on(layer_path(faulty), lambda handler: handler.answer(500, body))
    with pytest.raises(Unavailable, match=r"answered 500 .*disk .*full") as broken:
        await rig.pull(faulty.reference)
    assert len(broken.value.message) < 500
    assert broken.value.message.isprintable()
    assert len(faulty.asked(layer_path(faulty))) == FAST.retries + 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Unauthenticated),
        (403, PermissionDenied),
        (404, NotFound),
        (410, Unavailable),
        (400, Unavailable),
    ],
)
async def test_a_refusal_is_not_tried_again(
    rig: Rig, faulty: FaultyRegistry, status: int, error: type[Exception]
) -> None:
    faulty.on(layer_path(faulty), lambda handler: handler.answer(status))
    with pytest.raises(error):
        await rig.pull(faulty.reference)
    assert len(faulty.asked(layer_path(faulty))) == 1
    left = await rig.left()
    assert (left["content"], left["images"], left["leases"]) == ([], [], [])


async def test_a_connection_that_is_dropped_is_tried_again(rig: Rig, faulty: FaultyRegistry) -> None:
    def drop(handler: Handler) -> None:
        handler.close_connection = True

    faulty.on("HEAD", drop, times=1)
    faulty.on(layer_path(faulty), drop, times=2)
    await rig.pull(faulty.reference)


async def test_redirects_are_followed_but_not_in_circles(rig: Rig, faulty: FaultyRegistry) -> None:
    with faulty_registry(faulty.served) as store:
        path = f"/v2/test/image/blobs/{faulty.served.layers[0]}"
        away = {"Location": f"http://{store.address}{path}?signature=secret"}
        store.on(".", lambda handler: handler.send_blob(blob(faulty)))
        faulty.on(layer_path(faulty), lambda handler: handler.answer(307, b"", away), times=1)
        circle = {"Location": path.replace(faulty.served.layers[0], faulty.served.layers[1])}

        def turn(handler: Handler) -> None:
            # Not before the other layer has been asked for, which the failure of this one cancels.
            eventually(lambda: store.seen, bool, 0.4)
            handler.answer(302, b"", circle)

        faulty.on(layer_path(faulty, 1), turn)
        with pytest.raises(Unavailable, match="redirects in circles"):
            await rig.pull(faulty.reference)
        assert len(store.seen) == 1


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "http://user:word@127.0.0.1/", "http://[", "gopher://x/"]
)
async def test_a_redirect_to_nowhere_is_refused(rig: Rig, faulty: FaultyRegistry, location: str) -> None:
    faulty.on(layer_path(faulty), lambda handler: handler.answer(302, b"", {"Location": location}))
    with pytest.raises(Unavailable, match="redirects to") as refused:
        await rig.pull(faulty.reference)
    assert "word" not in refused.value.message


async def test_a_registry_without_head_or_digest_header_serves(rig: Rig, faulty: FaultyRegistry) -> None:
    faulty.on("HEAD", lambda handler: handler.answer(405))
    data = faulty.served.blobs[faulty.served.digest]
    plain = {"Content-Type": "application/json; charset=utf-8"}
    faulty.on("GET .*/manifests/", lambda handler: handler.answer(200, data, plain))
    assert (await rig.pull(faulty.reference)).target.digest == faulty.served.digest


async def test_a_cancelled_pull_leaves_a_resumable_ingest_and_nothing_else(
    rig: Rig, faulty: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, real = anyio.Event(), Transport.body

    async def body(transport: Transport, response: httpx.Response) -> AsyncGenerator[bytes]:
        async with aclosing(real(transport, response)) as chunks:
            async for chunk in chunks:
                yield chunk
                if faulty.served.layers[0] in str(response.url):
                    taken.set()

    monkeypatch.setattr(Transport, "body", body)

    def begin(handler: Handler) -> None:
        handler.cut(blob(faulty), 40)
        handler.hang()

    faulty.on(layer_path(faulty), begin, times=1)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(rig.pull, faulty.reference)
            await taken.wait()
            group.cancel_scope.cancel()
    left = await rig.left()
    assert left == NOTHING | {"ingests": left["ingests"]}
    assert f"layer-{faulty.served.layers[0]}" in left["ingests"]
    faulty.seen.clear()
    await rig.pull(faulty.reference)
    assert [seen.header("range") for seen in faulty.asked(layer_path(faulty))] == ["bytes=40-"]
    assert rig.states(faulty.served.layers[0])[-1] is BlobState.UNPACKED


async def test_a_pull_is_resumed_after_a_restart(tmp_path: Any, faulty: FaultyRegistry) -> None:
    def cut(handler: Handler) -> None:
        handler.answer(416) if handler.headers.get("Range") else handler.cut(blob(faulty), 50)

    faulty.on(layer_path(faulty), cut)
    async with open_rig(tmp_path) as first:
        with pytest.raises(Unavailable):
            await first.pull(faulty.reference)
    faulty.faults.clear()
    faulty.seen.clear()
    async with open_rig(tmp_path) as second:
        await second.pull(faulty.reference)
    assert [seen.header("range") for seen in faulty.asked(layer_path(faulty))] == ["bytes=50-"]


async def test_proxies_of_the_environment_are_not_asked_for_loopback(
    rig: Rig, faulty: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    await rig.pull(faulty.reference)


async def test_proxies_of_the_environment_are_asked_for_others(
    rig: Rig, faulty: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orlopd.plugin import ResolveOptions

    monkeypatch.setenv("HTTP_PROXY", f"http://{faulty.address}")
    with pytest.raises(NotFound):
        await rig.pull("registry.invalid/app:1", options=ResolveOptions(plain_http=True))
    assert faulty.seen[0].path == "http://registry.invalid/v2/app/manifests/1"
