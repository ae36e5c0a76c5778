"""Registries that misbehave: success after a retry, or one clear error; nothing corrupt is kept."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from orlop_plugins.registry.transport import Transport
from orlopd.core.fetch import ingest_ref
from orlopd.core.progress import BlobState
from orlopd.plugin.errors import (
    DataLoss,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from orlopd.plugin.values import Descriptor
from tests.registry.conftest import FAST, NOTHING, SCOPE, Rig, open_rig
from tests.support.daemon import eventually
from tests.support.faulty import FaultyRegistry, Handler, faulty_registry
from tests.support.images import INDEX, MANIFEST, SmallImage, digest_of, make_image, text_layer


def layer_path(faulty: FaultyRegistry, number: int = 0) -> str:
    return f"GET .*/blobs/{faulty.served.layers[number]}"


def blob(faulty: FaultyRegistry, number: int = 0) -> bytes:
    return faulty.served.blobs[faulty.served.layers[number]]


async def test_the_faulty_registry_serves_when_not_told_otherwise(rig: Rig, faulty: FaultyRegistry) -> None:
    assert (await rig.pull(faulty.reference)).target.digest == faulty.served.digest


async def test_a_registry_that_hangs_meets_a_deadline(hasty: Rig, faulty: FaultyRegistry) -> None:
    faulty.on("HEAD", Handler.hang)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded) as late:
        await hasty.pull(faulty.reference)
    assert time.monotonic() - began < 20  # and not the 30 s of the silence
    assert late.value.message == (
        f"registry {faulty.address} was asked for image {faulty.reference} and sent no answer within 0.5 s"
    )
    assert await hasty.left() == NOTHING


async def test_a_registry_that_accepts_no_connection_is_unavailable(rig: Rig) -> None:
    with pytest.raises(Unavailable, match=r"cannot reach registry 127\.0\.0\.1:1: connection refused"):
        await rig.pull("127.0.0.1:1/app:1")
    with pytest.raises(Unavailable, match=r"cannot reach registry nosuch\.invalid"):
        await rig.pull("nosuch.invalid/app:1")
    assert await rig.left() == NOTHING


async def test_a_blob_that_stalls_meets_a_deadline_and_is_resumed(hasty: Rig, faulty: FaultyRegistry) -> None:
    def stall(handler: Handler) -> None:
        handler.cut(blob(faulty), 20)
        handler.hang()

    faulty.on(layer_path(faulty), stall, times=1)
    await hasty.pull(faulty.reference)
    assert [seen.header("range") for seen in faulty.asked(layer_path(faulty))] == ["", "bytes=20-"]


async def test_a_blob_that_never_moves_on_is_one_error(hasty: Rig, faulty: FaultyRegistry) -> None:
    def stall(handler: Handler) -> None:
        handler.cut(blob(faulty), 0)
        handler.hang()

    faulty.on(layer_path(faulty), stall)
    with pytest.raises(DeadlineExceeded, match=r"stopped sending: nothing came in 0\.5 s"):
        await hasty.pull(faulty.reference)
    left = await hasty.left()
    assert (left["images"], left["snapshots"], left["leases"], left["content"]) == ([], [], [], [])


async def test_a_blob_that_drips_is_too_slow(hasty: Rig, faulty: FaultyRegistry) -> None:
    def drip(handler: Handler) -> None:
        handler.cut(blob(faulty), 0)
        for byte in blob(faulty):
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if handler.registry.over.wait(0.05):
                return

    faulty.on(layer_path(faulty), drip)
    with pytest.raises(DeadlineExceeded, match="stopped sending: only"):
        await hasty.pull(faulty.reference)


async def test_a_blob_that_moves_on_may_take_as_long_as_it_likes(
    tmp_path: Path, faulty: FaultyRegistry
) -> None:
    data = bytes(range(256)) * 72
    config = FAST.model_copy(update={"stall_timeout": 1})
    image = make_image([data], compress=False)
    faulty.image = image

    def slowly(handler: Handler) -> None:
        handler.cut(data, 0)
        for start in range(0, len(data), 2048):
            handler.registry.over.wait(0.25)
            handler.wfile.write(data[start : start + 2048])
            handler.wfile.flush()

    faulty.on(layer_path(faulty), slowly)
    began = time.monotonic()
    async with open_rig(tmp_path, config) as rig:
        await rig.pull(faulty.reference, unpack=False)
    assert time.monotonic() - began > 2 * config.stall_timeout
    assert len(faulty.asked(layer_path(faulty))) == 1


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


async def test_a_truncated_blob_whose_length_agrees_is_data_loss(rig: Rig, faulty: FaultyRegistry) -> None:
    faulty.on(layer_path(faulty), lambda handler: handler.answer(200, blob(faulty)[:-1]))
    with pytest.raises(DataLoss, match="the image says"):
        await rig.pull(faulty.reference)
    assert await rig.left_but_ingests(faulty.served.layers[1]) == NOTHING


async def test_a_wrong_digest_is_data_loss_that_names_both(rig: Rig, faulty: FaultyRegistry) -> None:
    wrong = bytes(len(blob(faulty)))
    faulty.on(layer_path(faulty), lambda handler: handler.answer(200, wrong))
    with pytest.raises(DataLoss) as loss:
        await rig.pull(faulty.reference)
    assert faulty.served.layers[0] in loss.value.message
    assert digest_of(wrong) in loss.value.message
    assert await rig.left_but_ingests(faulty.served.layers[1]) == NOTHING


async def test_a_wrong_manifest_is_data_loss(rig: Rig, faulty: FaultyRegistry) -> None:
    data = faulty.served.blobs[faulty.served.digest]
    headers = {"Content-Type": MANIFEST, "Docker-Content-Digest": faulty.served.digest}
    wrong = data.replace(b"application", b"Application")
    faulty.on("GET .*/manifests/", lambda handler: handler.answer(200, wrong, headers))
    with pytest.raises(DataLoss):
        await rig.pull(faulty.reference)
    assert await rig.left() == NOTHING


async def test_another_digest_than_the_pinned_one_is_data_loss(rig: Rig, faulty: FaultyRegistry) -> None:
    other = digest_of(b"other")
    headers = {"Content-Type": MANIFEST, "Docker-Content-Digest": faulty.served.digest}
    faulty.on(
        "manifests", lambda handler: handler.answer(200, faulty.served.blobs[faulty.served.digest], headers)
    )
    with pytest.raises(DataLoss, match="was asked for"):
        await rig.pull(f"{faulty.address}/test/image@{other}")


async def test_wrong_bytes_of_an_earlier_attempt_are_dropped(rig: Rig, faulty: FaultyRegistry) -> None:
    layer = faulty.served.layers[0]
    size = len(blob(faulty))
    descriptor = Descriptor("layer", layer, size)
    async with await rig.store.content.ingest(
        SCOPE, ingest_ref(descriptor), total=size, expected=layer
    ) as ingest:
        await ingest.write(b"nonsense")
    await rig.pull(faulty.reference)
    assert [seen.header("range") for seen in faulty.asked(layer_path(faulty))] == ["bytes=8-", ""]


async def test_an_endless_body_ends(rig: Rig, faulty: FaultyRegistry) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", MANIFEST)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        while True:
            handler.wfile.write(chunk)

    faulty.on("HEAD", lambda handler: handler.answer(405), times=1)
    faulty.on("GET .*/manifests/", endless, times=1)
    with pytest.raises(Unavailable, match="sends more than 8388608 bytes"):
        await rig.pull(faulty.reference)
    faulty.on(layer_path(faulty), endless, times=1)
    with pytest.raises(DataLoss, match="more"):
        await rig.pull(faulty.reference)
    assert await rig.left_but_ingests(faulty.served.layers[1]) == NOTHING


async def test_headers_that_drip_meet_a_deadline(hasty: Rig, faulty: FaultyRegistry) -> None:
    def drip(handler: Handler) -> None:
        handler.close_connection = True
        for byte in b"HTTP/1.1 200 OK\r\nContent-Type: " + b"x" * 200:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if handler.registry.over.wait(0.05):
                return

    faulty.on("HEAD", drip)
    with pytest.raises(DeadlineExceeded, match="sent no answer"):
        await hasty.pull(faulty.reference)
    assert await hasty.left() == NOTHING


@pytest.mark.parametrize("said", ["bytes 7-60/99999", "bytes 0-60/9999", "nonsense", ""])
async def test_another_range_than_the_one_asked_for_is_not_taken(
    rig: Rig, faulty: FaultyRegistry, said: str
) -> None:
    def rest(handler: Handler) -> None:
        if handler.headers.get("Range"):
            handler.answer(206, blob(faulty)[30:], {"Content-Range": said})
        else:
            handler.cut(blob(faulty), 30)

    faulty.on(layer_path(faulty), rest)
    with pytest.raises(DataLoss, match="another range"):
        await rig.pull(faulty.reference)
    left = await rig.left()
    assert left == NOTHING | {"ingests": left["ingests"]}
    # What had come of it was right, and is where the next pull begins.
    faulty.faults.clear()
    faulty.seen.clear()
    await rig.pull(faulty.reference)
    assert await rig.digests() == set(faulty.served.blobs)


@pytest.mark.parametrize("length", ["10", "99999", "0", "-1", "many"])
async def test_a_manifest_of_another_length_than_was_told_is_not_taken(
    rig: Rig, faulty: FaultyRegistry, length: str
) -> None:
    def tell(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", MANIFEST)
        handler.send_header("Docker-Content-Digest", faulty.served.digest)
        handler.send_header("Content-Length", length)
        handler.end_headers()
        handler.close_connection = True

    faulty.on("HEAD", tell)
    if length == "0":  # that says nothing, so GET is asked
        await rig.pull(faulty.reference)
        return
    with pytest.raises((DataLoss, Unavailable)):
        await rig.pull(faulty.reference)
    assert await rig.left() == NOTHING


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
async def test_a_passing_trouble_is_tried_again(rig: Rig, faulty: FaultyRegistry, status: int) -> None:
    for pattern in ("HEAD", "GET .*/manifests/", layer_path(faulty)):
        faulty.on(pattern, lambda handler: handler.answer(status), times=2)
    assert (await rig.pull(faulty.reference)).target.digest == faulty.served.digest


async def test_retry_after_is_heeded(rig: Rig, faulty: FaultyRegistry) -> None:
    faulty.on(layer_path(faulty), lambda handler: handler.answer(429, b"", {"Retry-After": "1"}), times=1)
    began = time.monotonic()
    await rig.pull(faulty.reference)
    assert time.monotonic() - began >= 1


async def test_a_retry_after_beyond_patience_is_told(rig: Rig, faulty: FaultyRegistry) -> None:
    faulty.on("GET|HEAD", lambda handler: handler.answer(429, b"", {"Retry-After": "3600"}))
    with pytest.raises(Unavailable, match="it asks to wait 3600 s") as limited:
        await rig.pull(faulty.reference)
    assert limited.value.reason == "RATE_LIMITED"


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


async def test_schema_1_is_refused_before_anything_is_fetched(rig: Rig, faulty: FaultyRegistry) -> None:
    old = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    headers = {"Content-Type": old, "Docker-Content-Digest": faulty.served.digest}
    faulty.on("manifests", lambda handler: handler.answer(200, b"{}", headers))
    with pytest.raises(InvalidArgument, match="format 1"):
        await rig.pull(faulty.reference)
    assert faulty.asked("blobs") == []


async def test_cve_2021_41190_an_ambiguous_manifest_is_never_stored(rig: Rig) -> None:
    image = make_image([text_layer("x", "x")])
    data = json.dumps(image.document() | {"manifests": []}).encode()
    target = {"mediaType": MANIFEST, "digest": digest_of(data), "size": len(data)}
    with faulty_registry(SmallImage(target, {**image.blobs, digest_of(data): data})) as server:
        with pytest.raises(InvalidArgument, match="ambiguous"):
            await rig.pull(server.reference)
        assert server.asked("blobs") == []
    assert await rig.left() == NOTHING


async def test_indexes_that_list_each_other_many_times_end(rig: Rig) -> None:
    image = make_image([], architecture="s390x")
    blobs: dict[str, bytes] = dict(image.blobs)
    target = image.target
    for _ in range(6):
        data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [target] * 1000}).encode()
        target = {"mediaType": INDEX, "digest": digest_of(data), "size": len(data)}
        blobs[target["digest"]] = data
    with faulty_registry(SmallImage(target, blobs)) as server, pytest.raises(NotFound, match="nothing for"):
        await rig.pull(server.reference)
    assert await rig.left() == NOTHING


async def test_a_layer_that_is_not_what_the_configuration_says_is_not_kept(rig: Rig) -> None:
    honest, other = make_image([text_layer("a", "a")]), make_image([text_layer("b", "b")])
    manifest = honest.document() | {"layers": other.document()["layers"]}
    data = json.dumps(manifest).encode()
    target = {"mediaType": MANIFEST, "digest": digest_of(data), "size": len(data)}
    with (
        faulty_registry(SmallImage(target, {**honest.blobs, **other.blobs, digest_of(data): data})) as server,
        pytest.raises(DataLoss, match="it unpacked to"),
    ):
        await rig.pull(server.reference)
    assert await rig.left() == NOTHING


async def test_a_layer_that_is_no_archive_leaves_no_snapshot(rig: Rig) -> None:
    image = make_image([b"this is no tar" * 100])
    with faulty_registry(image) as server, pytest.raises(InvalidArgument):
        await rig.pull(server.reference)
    assert await rig.left() == NOTHING


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
