"""Registries that answer otherwise than they should: one clear error, and nothing corrupt is kept."""

from __future__ import annotations

import json

import pytest

from orlopd.core.fetch import ingest_ref
from orlopd.plugin.errors import (
    DataLoss,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from orlopd.plugin.values import Descriptor
from tests.registry.conftest import NOTHING, SCOPE, Rig
from tests.registry.faults import blob, layer_path
from tests.support.faulty import FaultyRegistry, Handler, faulty_registry
from tests.support.images import INDEX, MANIFEST, SmallImage, digest_of, make_image, text_layer


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
