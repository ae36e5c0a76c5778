"""The Transfer and Streaming services, driven by a client that has nothing but the protos."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest

from orlop_protos.containerd.services.images.v1 import images_pb2
from orlop_protos.containerd.services.streaming.v1 import streaming_pb2
from orlop_protos.containerd.types.transfer import (
    imagestore_pb2,
    importexport_pb2,
    progress_pb2,
    registry_pb2,
)
from orlop_protos.containerd.types.transfer import (
    streaming_pb2 as frames_pb2,
)
from tests.registry.transferring import (
    PLATFORM,
    WINDOW,
    Client,
    at,
    pack,
    progress_of,
    receive_all,
    send_all,
    store,
)
from tests.support.daemon import Daemon, daemon
from tests.support.images import ARCHITECTURE, layout_tar, make_image, make_index, text_layer
from tests.support.registry import SECRET_WORD, Registry, registry

__all__ = ["daemon"]


@pytest.fixture
async def client(daemon: Daemon, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    namespace = request.node.name.replace("_", "-").replace("[", ".").replace("]", "")[:60].strip("-.")
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        opened = Client(channel, namespace)
        yield opened
        for call in opened.calls:
            call.cancel()
        for name in await opened.names():
            await opened.images.Delete(
                images_pb2.DeleteImageRequest(name=name, sync=True), metadata=opened.metadata
            )


@pytest.fixture(scope="module")
def server() -> Iterator[Registry]:
    with registry() as running:
        yield running


def index_of(mark: str) -> Any:
    mine = make_image([text_layer("a", f"a {mark}"), text_layer("b", f"b {mark}")])
    other = make_image([text_layer("o", mark)], architecture="riscv64")
    return make_index({f"linux/{ARCHITECTURE}": mine, "linux/riscv64": other})


async def test_a_pull_names_unpacks_and_tells(client: Client, server: Registry) -> None:
    index = index_of("pull")
    reference = server.push("transfer/pull:1", index)
    call = await client.open("progress-1")
    unpack = imagestore_pb2.UnpackConfiguration(platform=PLATFORM)
    end = store("my/name:1", platforms=[PLATFORM], unpacks=[unpack], labels={"a": "b"})
    told: list[Any] = []

    async def listen() -> None:
        told.extend(await progress_of(call))

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        await client.transfer(at(reference), end, "progress-1")
    image = await client.target("my/name:1")
    assert (image.target.digest, dict(image.labels)) == (index.digest, {"a": "b"})
    assert await client.names() == ["my/name:1"]
    words = [each.event for each in told]
    assert words[0].startswith("Resolving from")
    assert {"fetching image content", "complete", "extracted", "saved"} <= set(words)
    assert words[-1].startswith("Completed pull from")
    layers = {f"layer-{digest}" for digest in index.layers}
    assert {each.name for each in told if each.event == "extracted"} == layers
    assert all(each.parents == [reference] for each in told if each.name in layers)
    assert await client.no_leases()


async def test_all_platforms_are_pulled_and_pushed_again(client: Client, server: Registry) -> None:
    index = index_of("all")
    await client.transfer(at(server.push("transfer/all:1", index)), store("all:1"))
    await client.transfer(store("all:1"), at(f"{server.address}/transfer/copy:1"))
    before = len(server.requests)
    await client.transfer(at(f"{server.address}/transfer/copy:1"), store("copy:1"))
    assert len(server.requests) == before + 1
    assert (await client.target("copy:1")).target.digest == index.digest


async def test_a_tag_is_a_transfer_within_the_store(client: Client, server: Registry) -> None:
    index = index_of("tag")
    await client.transfer(at(server.push("transfer/tag:1", index)), store("one:1"))
    await client.transfer(store("one:1"), store("two:1"))
    assert (await client.target("two:1")).target.digest == index.digest


async def test_an_archive_goes_in_and_out_by_windows(client: Client, server: Registry) -> None:
    image = make_image([text_layer("big", "".join(map(str, range(200_000))))], compress=False)
    annotations = {"org.opencontainers.image.ref.name": "v1"}
    data = layout_tar(image, [image.target | {"annotations": annotations}])
    assert len(data) > 10 * WINDOW
    call = await client.open("import")
    prefix = imagestore_pb2.ImageReference(name="docker.io/prefix/app", is_prefix=True, add_digest=True)
    unpack = imagestore_pb2.UnpackConfiguration(platform=PLATFORM)
    async with anyio.create_task_group() as group:
        group.start_soon(send_all, call, data)
        source = importexport_pb2.ImageImportStream(stream="import")
        await client.transfer(source, store(extra_references=[prefix], unpacks=[unpack]))
    names = ["docker.io/prefix/app:v1", f"docker.io/prefix/app@{image.digest}"]
    assert await client.names() == names
    for name in names:
        out: list[bytes] = []
        for number in range(2):
            call = await client.open(f"{name} {number}")

            async def listen(call: Any = call, out: list[bytes] = out) -> None:
                out.append(await receive_all(call, len(out[0]) if out else 0))

            async with anyio.create_task_group() as group:
                group.start_soon(listen)
                end = importexport_pb2.ImageExportStream(stream=f"{name} {number}", all_platforms=True)
                await client.transfer(store(name), end)
        assert image.blobs[image.digest] in out[0]
        assert len(out[0]) > 10 * WINDOW
        assert out[1] == out[0]


async def told_of(client: Client, source: Any, destination: Any) -> list[progress_pb2.Progress]:
    """What a progress stream tells of a transfer."""
    call, told = await client.open(f"progress of {len(client.calls)}"), list[progress_pb2.Progress]()

    async def listen() -> None:
        told.extend(await progress_of(call))

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        await client.transfer(source, destination, f"progress of {len(client.calls) - 1}")
    return told


async def test_a_push_an_import_and_an_export_tell_as_well(client: Client, server: Registry) -> None:
    image = make_image([text_layer("told", "told " * 50_000)], compress=False)
    annotations = {"io.containerd.image.name": "docker.io/library/told:1"}
    data = layout_tar(image, [image.target | {"annotations": annotations}])
    call = await client.open("told in")
    unpack = imagestore_pb2.UnpackConfiguration(platform=PLATFORM)
    imported, exported = list[progress_pb2.Progress](), list[progress_pb2.Progress]()
    async with anyio.create_task_group() as group:
        group.start_soon(send_all, call, data)
        source = importexport_pb2.ImageImportStream(stream="told in")
        imported = await told_of(client, source, store("told:1", unpacks=[unpack]))
    words = [each.event for each in imported]
    assert (words[0], words[-2:]) == ("Importing", ["saved", "Completed import"])
    assert ("extracted", f"layer-{image.layers[0]}") in [(each.event, each.name) for each in imported]
    assert next(each for each in imported if each.event == "saved").desc.digest == image.digest

    pushed = await told_of(client, store("told:1"), at(f"{server.address}/transfer/told:1"))
    words = [each.event for each in pushed]
    assert words[0].startswith("Pushing to OCI Registry")
    assert words[-1].startswith("Completed push to OCI Registry")
    done = {each.name: each for each in pushed if each.event == "complete"}
    size = len(image.blobs[image.layers[0]])
    assert (done[f"layer-{image.layers[0]}"].progress, done[f"layer-{image.layers[0]}"].total) == (size, size)
    assert f"manifest-{image.digest}" in done

    call, out = await client.open("told out"), list[bytes]()

    async def receive() -> None:
        out.append(await receive_all(call))

    async with anyio.create_task_group() as group:
        group.start_soon(receive)
        end = importexport_pb2.ImageExportStream(stream="told out")
        exported = await told_of(client, store("told:1"), end)
    assert [each.event for each in exported] == ["Exporting", "Completed export"]
    assert image.blobs[image.digest] in out[0]


async def test_bytes_are_echoed_from_stream_to_stream(client: Client) -> None:
    data = bytes(range(256)) * 2000
    source, sink = await client.open("in"), await client.open("out")
    got: list[bytes] = []

    async def listen() -> None:
        got.append(await receive_all(sink, len(data)))

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        group.start_soon(send_all, source, data)
        await client.transfer(
            importexport_pb2.ImageImportStream(stream="in"),
            importexport_pb2.ImageExportStream(stream="out"),
        )
    assert got == [data]


async def test_credentials_are_asked_of_the_client(client: Client) -> None:
    image = make_image([text_layer("x", "private")])
    annotations = {"io.containerd.image.name": "docker.io/library/private:1"}
    with registry(htpasswd=f"user:{SECRET_WORD}\n") as guarded:
        asked: list[Any] = []

        async def answer(call: Any, secret: str, kind: Any = registry_pb2.CREDENTIALS) -> None:
            while (message := await call.read()) is not grpc.aio.EOF:
                asked.append(registry_pb2.AuthRequest.FromString(message.value))
                said = registry_pb2.AuthResponse(authType=kind, username="user", secret=secret)
                await call.write(pack(said))

        call = await client.open("import")
        data = layout_tar(image, [image.target | {"annotations": annotations}])
        prefix = imagestore_pb2.ImageReference(name="docker.io", is_prefix=True)
        async with anyio.create_task_group() as group:
            group.start_soon(send_all, call, data)
            source = importexport_pb2.ImageImportStream(stream="import")
            await client.transfer(source, store(extra_references=[prefix]))
        reference = f"{guarded.address}/private/image:1"
        for number, secret in enumerate(("wrong", "secret-word")):
            call = await client.open(f"auth-{number}")
            async with anyio.create_task_group() as group:
                group.start_soon(answer, call, secret)
                end = at(reference, auth_stream=f"auth-{number}")
                if secret == "wrong":
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await client.transfer(store("docker.io/library/private:1"), end)
                    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
                    assert "wrong" not in (refused.value.details() or "")
                else:
                    await client.transfer(store("docker.io/library/private:1"), end)
        basic = f"Basic {base64.b64encode(b'user:secret-word').decode()}"
        for secret, kind in (("secret-word", registry_pb2.CREDENTIALS), (basic, registry_pb2.HEADER)):
            call = await client.open(f"auth-{secret}")
            async with anyio.create_task_group() as group:
                group.start_soon(answer, call, secret, kind)
                await client.transfer(at(reference, auth_stream=f"auth-{secret}"), store(f"pulled:{kind}"))
            assert (await client.target(f"pulled:{kind}")).target.digest == image.digest
        assert len(asked) == 4
        assert {(each.host, each.reference) for each in asked} == {(guarded.address, reference)}
        assert all("basic" in each.wwwauthenticate[0].lower() for each in asked)


async def refused_with(client: Client, source: Any, destination: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.transfer(source, destination)
    return refused.value.code()


async def test_what_cannot_be_is_refused(client: Client, server: Registry) -> None:
    codes = grpc.StatusCode
    exporting = importexport_pb2.ImageExportStream(stream="none")
    assert await refused_with(client, at("x"), at("y")) is codes.UNIMPLEMENTED
    assert await refused_with(client, at("x"), exporting) is codes.UNIMPLEMENTED
    assert await refused_with(client, frames_pb2.ReadStream(), store("x")) is codes.UNIMPLEMENTED
    importing = importexport_pb2.ImageImportStream(stream="none")
    assert await refused_with(client, importing, store("x")) is codes.NOT_FOUND
    assert await refused_with(client, store("absent"), at(f"{server.address}/x:1")) is codes.NOT_FOUND
    nowhere = at(f"{server.address}/transfer/absent:1")
    assert await refused_with(client, nowhere, store("x")) is codes.NOT_FOUND
    assert await refused_with(client, at("UPPER/case"), store("x")) is codes.INVALID_ARGUMENT
    assert await client.no_leases()


async def ended(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
    await call


async def test_a_stream_needs_its_init_and_an_id_of_its_own(client: Client) -> None:
    call = client.streaming.Stream(metadata=client.metadata)
    await call.write(pack(frames_pb2.Data(data=b"x")))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ended(call)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await client.open("twice")
    again = client.streaming.Stream(metadata=client.metadata)
    await again.write(pack(streaming_pb2.StreamInit(id="twice")))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ended(again)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_a_sender_that_goes_away_leaves_nothing(client: Client) -> None:
    image = make_image([text_layer("x", "gone" * 100_000)], compress=False)
    annotations = {"io.containerd.image.name": "docker.io/library/gone:1"}
    data = layout_tar(image, [image.target | {"annotations": annotations}])
    call = await client.open("gone")

    async def leave() -> None:
        await send_all(call, data[: len(data) // 2], end=False)
        call.cancel()

    source = importexport_pb2.ImageImportStream(stream="gone")
    codes: list[grpc.StatusCode] = []
    async with anyio.create_task_group() as group:
        group.start_soon(leave)
        codes.append(await refused_with(client, source, store("gone:1")))
    assert codes[0] in (grpc.StatusCode.ABORTED, grpc.StatusCode.INVALID_ARGUMENT)
    assert await client.names() == []
    assert await client.no_leases()
