"""The services of the metadata core, over gRPC: what travels, and with which codes it is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2, field_mask_pb2, timestamp_pb2

from orlop_protos.containerd.events import container_pb2, task_pb2
from orlop_protos.containerd.services.containers.v1 import containers_pb2, containers_pb2_grpc
from orlop_protos.containerd.services.content.v1 import content_pb2, content_pb2_grpc
from orlop_protos.containerd.services.diff.v1 import diff_pb2, diff_pb2_grpc
from orlop_protos.containerd.services.events.v1 import events_pb2, events_pb2_grpc
from orlop_protos.containerd.services.images.v1 import image_pb2, images_pb2, images_pb2_grpc
from orlop_protos.containerd.services.leases.v1 import leases_pb2, leases_pb2_grpc
from orlop_protos.containerd.services.namespaces.v1 import namespace_pb2, namespace_pb2_grpc
from orlop_protos.containerd.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from orlop_protos.containerd.types import descriptor_pb2, event_pb2, mount_pb2
from orlopd.core.store import Store
from orlopd.plugin import BlobReader, Ingest
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Descriptor, Event, Mount, TypedBytes, now
from orlopd.server.interceptor import Interceptor
from orlopd.server.tracing import Tracer
from orlopd.services import convert
from orlopd.services.containerd import (
    containers,
    content,
    diff,
    events,
    images,
    leases,
    namespaces,
    snapshots,
)
from tests.support.store import MANIFEST, World, digest_of

Code = grpc.StatusCode
HELLO = b"hello, world"
SERVICES: Sequence[Any] = (
    content.ContentService,
    images.ImagesService,
    snapshots.SnapshotsService,
    diff.DiffService,
    leases.LeasesService,
    containers.ContainersService,
    namespaces.NamespacesService,
    events.EventsService,
)


class UpperDiffer:
    """Its layers are text; to apply one is to make it lower case."""

    def handles(self, media_type: str) -> bool:
        return media_type == "text/upper"

    async def apply(
        self, layer: Descriptor, blob: BlobReader, mounts: Sequence[Mount], *, progress: object = None
    ) -> Descriptor:
        data = await blob.read_at(0, blob.size)
        if not data.isupper():
            raise InvalidArgument("not upper")
        plain = data.lower() + mounts[0].source.encode()
        return Descriptor("text/lower", digest_of(plain), len(plain))

    async def diff(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str,
        sink: Ingest,
        *,
        newest: int | None = None,
    ) -> str:
        await sink.write(f"{lower[0].source}-{upper[0].source}".upper().encode())
        return digest_of(b"plain")

    async def unpack_tar(
        self, blob: BlobReader, mounts: Sequence[Mount], *, uids: str = "", gids: str = ""
    ) -> int:
        raise NotImplementedError


class Client:
    """Stubs with the namespace in place."""

    def __init__(self, channel: grpc.aio.Channel, store: Store, **headers: str) -> None:
        self.store = store
        given = {"containerd_namespace": "testing", **headers}
        metadata = [(key.replace("_", "-"), value) for key, value in given.items() if value]

        def bound(stub: Any) -> Any:
            class Bound:
                def __getattr__(self, name: str) -> Any:
                    return lambda *args: getattr(stub, name)(*args, metadata=metadata, timeout=20)

            return Bound()

        self.content = bound(content_pb2_grpc.ContentStub(channel))
        self.images = bound(images_pb2_grpc.ImagesStub(channel))
        self.snapshots = bound(snapshots_pb2_grpc.SnapshotsStub(channel))
        self.diff = bound(diff_pb2_grpc.DiffStub(channel))
        self.leases = bound(leases_pb2_grpc.LeasesStub(channel))
        self.containers = bound(containers_pb2_grpc.ContainersStub(channel))
        self.namespaces = bound(namespace_pb2_grpc.NamespacesStub(channel))
        self.events = bound(events_pb2_grpc.EventsStub(channel))
        self.with_headers = lambda **more: Client(channel, store, **{**given, **more})


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    world = World(tmp_path)
    world.differs.append(UpperDiffer())
    async with world.open() as store:
        server = grpc.aio.server(interceptors=[Interceptor(Tracer("test"))])
        for service in SERVICES:
            (name,) = service(store).register(server)
            assert name.startswith("containerd.services.")
        server.add_insecure_port(f"unix:{tmp_path}/sock")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{tmp_path}/sock") as channel:
                yield Client(channel, store)
        finally:
            await server.stop(0)


async def refused(call: Any) -> grpc.StatusCode:
    """The code with which a call ends."""

    async def finish() -> None:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await finish()
    return caught.value.code()


def asks(*requests: Any) -> list[content_pb2.WriteContentRequest]:
    return [content_pb2.WriteContentRequest(**each) for each in requests]


async def write(client: Client, *requests: Any) -> list[content_pb2.WriteContentResponse]:
    return [response async for response in client.content.Write(iter(asks(*requests)))]


async def add(client: Client, data: bytes) -> str:
    request = {"action": content_pb2.COMMIT, "ref": "add", "data": data}
    return (await write(client, request))[-1].digest


# --- Content --------------------------------------------------------------------------------------------


async def test_a_blob_is_written_read_and_listed(client: Client) -> None:
    digest = digest_of(HELLO)
    stat, first, second, done = await write(
        client,
        {"action": content_pb2.STAT, "ref": "ref", "total": 12, "expected": digest},
        {"action": content_pb2.WRITE, "data": HELLO[:5]},
        {"action": content_pb2.WRITE, "offset": 5, "data": HELLO[5:8]},
        {"action": content_pb2.COMMIT, "offset": 8, "data": HELLO[8:], "total": 12, "labels": {"a": "1"}},
    )
    assert (stat.action, stat.offset, stat.total) == (content_pb2.STAT, 0, 12)
    assert stat.digest == digest_of(b"")
    assert stat.HasField("started_at")
    assert (first.offset, first.digest) == (5, digest_of(HELLO[:5]))
    assert second.offset == 8
    assert (done.action, done.offset, done.digest) == (content_pb2.COMMIT, 12, digest)
    info = (await client.content.Info(content_pb2.InfoRequest(digest=digest))).info
    assert (info.digest, info.size, dict(info.labels)) == (digest, 12, {"a": "1"})
    request = content_pb2.ListContentRequest(filters=["labels.a==1"])
    assert [each.info[0].digest async for each in client.content.List(request)] == [digest]
    mask = field_mask_pb2.FieldMask(paths=["labels.b"])
    wanted = content_pb2.Info(digest=digest, labels={"b": "2"})
    update = content_pb2.UpdateRequest(info=wanted, update_mask=mask)
    assert dict((await client.content.Update(update)).info.labels) == {"a": "1", "b": "2"}
    await client.content.Delete(content_pb2.DeleteContentRequest(digest=digest))
    assert await refused(client.content.Info(content_pb2.InfoRequest(digest=digest))) is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (0, 0, HELLO),
        (7, 0, b"world"),
        (7, 3, b"wor"),
        (7, 100, b"world"),
        (-5, 5, b"hello"),
        (12, 0, b""),
        (3, -1, HELLO[3:]),
    ],
)
async def test_any_part_of_a_blob_is_read(client: Client, offset: int, size: int, expected: bytes) -> None:
    digest = await add(client, HELLO)
    request = content_pb2.ReadContentRequest(digest=digest, offset=offset, size=size)
    assert b"".join([part.data async for part in client.content.Read(request)]) == expected


async def test_a_large_blob_comes_in_pieces(client: Client) -> None:
    data = bytes(range(256)) * 4096 * 2 + b"rest"
    digest = await add(client, data)
    request = content_pb2.ReadContentRequest(digest=digest)
    parts = [(part.offset, len(part.data)) async for part in client.content.Read(request)]
    assert parts == [(0, 1 << 20), (1 << 20, 1 << 20), (2 << 20, 4)]


async def test_reads_that_cannot_be(client: Client) -> None:
    digest = await add(client, HELLO)
    read = client.content.Read
    past = content_pb2.ReadContentRequest(digest=digest, offset=13)
    assert await refused(read(past)) is Code.OUT_OF_RANGE
    gone = content_pb2.ReadContentRequest(digest=digest_of(b"gone"))
    assert await refused(read(gone)) is Code.NOT_FOUND
    assert await refused(read(content_pb2.ReadContentRequest(digest="sha256:x"))) is Code.INVALID_ARGUMENT


async def test_writes_that_cannot_be(client: Client) -> None:
    async def code(*requests: Any) -> grpc.StatusCode:
        return await refused(client.content.Write(iter(asks(*requests))))

    commit, some = content_pb2.COMMIT, {"ref": "ref", "action": content_pb2.WRITE, "data": HELLO}
    assert await code({"action": content_pb2.STAT}) is Code.INVALID_ARGUMENT
    assert await code(some, {"action": content_pb2.WRITE, "offset": 5, "data": b"x"}) is Code.OUT_OF_RANGE
    assert await code(some, {"action": commit, "offset": 12, "total": 11}) is Code.FAILED_PRECONDITION
    assert (
        await code(some, {"action": commit, "offset": 12, "expected": digest_of(b"other")})
        is Code.FAILED_PRECONDITION
    )
    # What was sent is still there to look at.
    status = (await client.content.Status(content_pb2.StatusRequest(ref="ref"))).status
    assert (status.ref, status.offset) == ("ref", 12)
    digest = await add(client, HELLO)
    assert await code({"ref": "again", "expected": digest}) is Code.ALREADY_EXISTS
    assert await code(some, {"action": commit, "offset": 12, "expected": digest}) is Code.ALREADY_EXISTS
    assert await code({"ref": "new", "data": HELLO, "action": commit}) is Code.ALREADY_EXISTS
    assert not (await client.content.ListStatuses(content_pb2.ListStatusesRequest())).statuses
    bad = {"ref": "x", "data": b"y", "action": commit, "labels": {"k": "v" * 4096}}
    assert await code(bad) is Code.INVALID_ARGUMENT


async def test_writing_at_offset_zero_begins_anew(client: Client) -> None:
    write_, commit = content_pb2.WRITE, content_pb2.COMMIT
    await write(client, {"ref": "ref", "action": write_, "data": b"wrong"})
    first, _ = await write(
        client,
        {"ref": "ref", "action": write_, "data": HELLO[:5]},
        {"action": commit, "offset": 5, "data": HELLO[5:], "expected": digest_of(HELLO)},
    )
    assert first.offset == 5


async def test_a_broken_write_is_resumed_and_a_ref_is_locked(client: Client) -> None:
    requests = asks({"ref": "ref", "total": 12, "action": content_pb2.WRITE, "data": HELLO[:5]})
    closed = anyio.Event()

    async def slowly() -> AsyncIterator[content_pb2.WriteContentRequest]:
        for request in requests:
            yield request
        await closed.wait()

    call = client.content.Write(slowly())
    assert (await call.read()).offset == 5
    other = client.content.Write(iter(asks({"ref": "ref"})))
    assert await refused(other) is Code.UNAVAILABLE
    call.cancel()
    closed.set()

    async def resume() -> list[content_pb2.WriteContentResponse]:
        commit = {"action": content_pb2.COMMIT, "offset": 5, "data": HELLO[5:]}
        while True:
            try:
                return await write(client, {"ref": "ref"}, commit)
            except grpc.aio.AioRpcError as error:
                # The server hears of the cancellation a little later.
                if error.code() is not Code.UNAVAILABLE:
                    raise
                await anyio.sleep(0.02)

    with anyio.fail_after(10):
        stat, done = await resume()
    assert (stat.offset, done.digest) == (5, digest_of(HELLO))


async def test_an_ingest_is_aborted(client: Client) -> None:
    await write(client, {"ref": "ref", "action": content_pb2.WRITE, "data": HELLO})
    statuses = (
        await client.content.ListStatuses(content_pb2.ListStatusesRequest(filters=["ref==ref"]))
    ).statuses
    assert [each.ref for each in statuses] == ["ref"]
    await client.content.Abort(content_pb2.AbortRequest(ref="ref"))
    for call in (
        client.content.Abort(content_pb2.AbortRequest(ref="ref")),
        client.content.Status(content_pb2.StatusRequest(ref="ref")),
    ):
        assert await refused(call) is Code.NOT_FOUND


# --- Snapshots and diff ---------------------------------------------------------------------------------


async def test_snapshots_over_the_wire(client: Client) -> None:
    sn = client.snapshots
    mem: dict[str, Any] = {"snapshotter": "mem"}
    prepared = await sn.Prepare(snapshots_pb2.PrepareSnapshotRequest(**mem, key="a", labels={"x": "1"}))
    (mount,) = prepared.mounts
    assert (mount.type, list(mount.options)) == ("bind", ["rbind", "rw"])
    again = (await sn.Mounts(snapshots_pb2.MountsRequest(**mem, key="a"))).mounts
    assert list(again) == [mount]
    await sn.Commit(snapshots_pb2.CommitSnapshotRequest(**mem, name="base", key="a", labels={"y": "1"}))
    viewed = await sn.View(snapshots_pb2.ViewSnapshotRequest(**mem, key="look", parent="base"))
    assert list(viewed.mounts[0].options) == ["rbind", "ro"]
    info = (await sn.Stat(snapshots_pb2.StatSnapshotRequest(**mem, key="base"))).info
    assert (info.name, info.kind, dict(info.labels)) == ("base", snapshots_pb2.COMMITTED, {"y": "1"})
    mask = field_mask_pb2.FieldMask(paths=["labels.z"])
    wanted = snapshots_pb2.Info(name="base", labels={"z": "2"})
    update = snapshots_pb2.UpdateSnapshotRequest(**mem, info=wanted, update_mask=mask)
    assert dict((await sn.Update(update)).info.labels) == {"y": "1", "z": "2"}
    listed = sn.List(snapshots_pb2.ListSnapshotsRequest(**mem))
    assert [(each.name, each.parent, each.kind) async for block in listed for each in block.info] == [
        ("base", "", snapshots_pb2.COMMITTED),
        ("look", "base", snapshots_pb2.VIEW),
    ]
    for word, name in (("kind==view", "look"), ("parent==base", "look"), ("labels.z==2", "base")):
        found = sn.List(snapshots_pb2.ListSnapshotsRequest(**mem, filters=[word]))
        assert [each.name async for block in found for each in block.info] == [name], word
    nonsense = snapshots_pb2.ListSnapshotsRequest(**mem, filters=["name=~["])
    assert await refused(sn.List(nonsense)) is Code.INVALID_ARGUMENT
    usage = await sn.Usage(snapshots_pb2.UsageRequest(**mem, key="look"))
    assert (usage.size, usage.inodes) == (100, 1)
    base = snapshots_pb2.RemoveSnapshotRequest(**mem, key="base")
    assert await refused(sn.Remove(base)) is Code.FAILED_PRECONDITION
    await sn.Remove(snapshots_pb2.RemoveSnapshotRequest(**mem, key="look"))
    await sn.Cleanup(snapshots_pb2.CleanupRequest(**mem))
    gone = snapshots_pb2.StatSnapshotRequest(**mem, key="look")
    assert await refused(sn.Stat(gone)) is Code.NOT_FOUND
    for name in ("", "nope"):
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=name)
        assert await refused(sn.List(request)) is Code.INVALID_ARGUMENT


async def test_layers_are_applied_and_made(client: Client) -> None:
    digest = await add(client, b"HELLO")
    layer = descriptor_pb2.Descriptor(media_type="text/upper", digest=digest, size=5)
    request = diff_pb2.ApplyRequest(diff=layer, mounts=[mount_pb2.Mount(type="bind", source="/x")])
    applied = (await client.diff.Apply(request)).applied
    assert (applied.media_type, applied.digest) == ("text/lower", digest_of(b"hello/x"))
    layer.media_type = "text/other"
    assert await refused(client.diff.Apply(diff_pb2.ApplyRequest(diff=layer))) is Code.UNIMPLEMENTED
    layer.media_type, layer.digest = "text/upper", digest_of(b"gone")
    assert await refused(client.diff.Apply(diff_pb2.ApplyRequest(diff=layer))) is Code.NOT_FOUND

    request = diff_pb2.DiffRequest(
        left=[mount_pb2.Mount(source="a")],
        right=[mount_pb2.Mount(source="b")],
        media_type="text/upper",
        labels={"note": "x"},
    )
    await client.diff.Diff(request)
    made = (await client.diff.Diff(request)).diff
    assert (made.media_type, made.digest, made.size) == ("text/upper", digest_of(b"A-B"), 3)
    info = (await client.content.Info(content_pb2.InfoRequest(digest=made.digest))).info
    assert dict(info.labels) == {"note": "x", "containerd.io/uncompressed": digest_of(b"plain")}
    assert not (await client.content.ListStatuses(content_pb2.ListStatusesRequest())).statuses


# --- Images, containers, leases, namespaces -------------------------------------------------------------


async def test_images_over_the_wire(client: Client) -> None:
    digest = await add(client, HELLO)
    target = descriptor_pb2.Descriptor(media_type=MANIFEST, digest=digest, size=12, annotations={"note": "x"})
    image = images_pb2.Image(name="image", target=target, labels={"a": "1"})
    made = (await client.images.Create(images_pb2.CreateImageRequest(image=image))).image
    assert made.HasField("created_at")
    got = (await client.images.Get(images_pb2.GetImageRequest(name="image"))).image
    assert (got.target, dict(got.labels)) == (target, {"a": "1"})
    create = images_pb2.CreateImageRequest(image=image)
    assert await refused(client.images.Create(create)) is Code.ALREADY_EXISTS
    mask = field_mask_pb2.FieldMask(paths=["labels"])
    image.labels["b"] = "2"
    epoch = timestamp_pb2.Timestamp(seconds=1)
    update = images_pb2.UpdateImageRequest(image=image, update_mask=mask, source_date_epoch=epoch)
    assert (await client.images.Update(update)).image.updated_at == epoch
    listed = await client.images.List(images_pb2.ListImagesRequest(filters=["labels.b"]))
    assert [each.name for each in listed.images] == ["image"]
    empty = images_pb2.CreateImageRequest(image=images_pb2.Image(target=target))
    assert await refused(client.images.Create(empty)) is Code.INVALID_ARGUMENT
    bad = images_pb2.ListImagesRequest(filters=["name="])
    assert await refused(client.images.List(bad)) is Code.INVALID_ARGUMENT
    other = descriptor_pb2.Descriptor(digest=digest_of(b"x"))
    delete = images_pb2.DeleteImageRequest(name="image", target=other)
    assert await refused(client.images.Delete(delete)) is Code.NOT_FOUND
    await client.images.Delete(images_pb2.DeleteImageRequest(name="image", sync=True))
    # With sync what the image kept is gone.
    assert await refused(client.content.Info(content_pb2.InfoRequest(digest=digest))) is Code.NOT_FOUND


async def test_containers_over_the_wire(client: Client) -> None:
    container = containers_pb2.Container(
        id="box",
        image="image",
        runtime=containers_pb2.Container.Runtime(
            name="runc", options=any_pb2.Any(type_url="options", value=b"\xff")
        ),
        spec=any_pb2.Any(type_url="spec", value=b"{}"),
        snapshotter="mem",
        snapshot_key="key",
        labels={"a": "1"},
        extensions={"e": any_pb2.Any(type_url="ext", value=b"\x00")},
        sandbox="pod",
    )
    request = containers_pb2.CreateContainerRequest(container=container)
    made = (await client.containers.Create(request)).container
    got = (await client.containers.Get(containers_pb2.GetContainerRequest(id="box"))).container
    assert got == made
    for field in ("created_at", "updated_at"):
        assert got.HasField(field)
        got.ClearField(field)
    assert got == container
    mask = field_mask_pb2.FieldMask(paths=["image"])
    container.image = "other"
    update = containers_pb2.UpdateContainerRequest(container=container, update_mask=mask)
    assert (await client.containers.Update(update)).container.image == "other"
    everything = containers_pb2.ListContainersRequest(filters=["image==other"])
    assert [each.id for each in (await client.containers.List(everything)).containers] == ["box"]
    stream = client.containers.ListStream(everything)
    assert [each.container.id async for each in stream] == ["box"]
    assert await refused(client.containers.Create(request)) is Code.ALREADY_EXISTS
    container.ClearField("spec")
    container.id = "other"
    bad = containers_pb2.CreateContainerRequest(container=container)
    assert await refused(client.containers.Create(bad)) is Code.INVALID_ARGUMENT
    delete = containers_pb2.DeleteContainerRequest(id="box")
    await client.containers.Delete(delete)
    assert await refused(client.containers.Delete(delete)) is Code.NOT_FOUND


async def test_leases_over_the_wire(client: Client) -> None:
    lease = (await client.leases.Create(leases_pb2.CreateRequest(labels={"a": "1"}))).lease
    assert lease.id
    leased = client.with_headers(containerd_lease=lease.id)
    digest = await add(leased, HELLO)
    resources = (await client.leases.ListResources(leases_pb2.ListResourcesRequest(id=lease.id))).resources
    assert [(each.type, each.id) for each in resources] == [("content", digest)]
    more = leases_pb2.Resource(type="snapshots/mem", id="key")
    await client.leases.AddResource(leases_pb2.AddResourceRequest(id=lease.id, resource=more))
    await client.leases.DeleteResource(leases_pb2.DeleteResourceRequest(id=lease.id, resource=more))
    listed = (await client.leases.List(leases_pb2.ListRequest(filters=["labels.a==1"]))).leases
    assert [each.id for each in listed] == [lease.id]
    await client.store.gc.collect()
    await client.content.Info(content_pb2.InfoRequest(digest=digest))
    odd = leases_pb2.AddResourceRequest(id=lease.id, resource=leases_pb2.Resource(type="tasks", id="x"))
    assert await refused(client.leases.AddResource(odd)) is Code.UNIMPLEMENTED
    await client.leases.Delete(leases_pb2.DeleteRequest(id=lease.id, sync=True))
    assert await refused(client.content.Info(content_pb2.InfoRequest(digest=digest))) is Code.NOT_FOUND
    write_ = leased.content.Write(iter(asks({"ref": "ref"})))
    assert await refused(write_) is Code.NOT_FOUND


async def test_namespaces_over_the_wire(client: Client) -> None:
    nameless = client.with_headers(containerd_namespace="")
    made = namespace_pb2.Namespace(name="made", labels={"a": "1"})
    await nameless.namespaces.Create(namespace_pb2.CreateNamespaceRequest(namespace=made))
    made.labels["b"] = "2"
    mask = field_mask_pb2.FieldMask(paths=["labels.b"])
    await nameless.namespaces.Update(namespace_pb2.UpdateNamespaceRequest(namespace=made, update_mask=mask))
    got = await nameless.namespaces.Get(namespace_pb2.GetNamespaceRequest(name="made"))
    assert got.namespace == made
    listed = (await nameless.namespaces.List(namespace_pb2.ListNamespacesRequest())).namespaces
    assert list(listed) == [made]
    await client.leases.Create(leases_pb2.CreateRequest(id="x"))
    delete = nameless.namespaces.Delete
    await delete(namespace_pb2.DeleteNamespaceRequest(name="made"))
    assert await refused(delete(namespace_pb2.DeleteNamespaceRequest(name="made"))) is Code.NOT_FOUND
    await add(client, HELLO)
    held = delete(namespace_pb2.DeleteNamespaceRequest(name="testing"))
    assert await refused(held) is Code.FAILED_PRECONDITION
    missing = nameless.images.List(images_pb2.ListImagesRequest())
    assert await refused(missing) is Code.FAILED_PRECONDITION


# --- Events ---------------------------------------------------------------------------------------------


async def test_events_are_published_forwarded_and_heard(client: Client) -> None:
    filters = ["event.container_id==box", 'topic=="/images/create"', 'topic=="/odd/one"']
    subscription = client.events.Subscribe(events_pb2.SubscribeRequest(filters=filters))
    await subscription.initial_metadata()
    exited = task_pb2.TaskExit(container_id="box", exit_status=7)
    payload = any_pb2.Any(type_url="containerd.events.TaskExit", value=exited.SerializeToString())
    await client.events.Publish(events_pb2.PublishRequest(topic="/tasks/exit", event=payload))
    other = any_pb2.Any(
        type_url="containerd.events.TaskExit",
        value=task_pb2.TaskExit(container_id="other").SerializeToString(),
    )
    await client.events.Publish(events_pb2.PublishRequest(topic="/tasks/exit", event=other))
    at = timestamp_pb2.Timestamp(seconds=1700000000, nanos=5000)
    packed = any_pb2.Any(type_url="type.googleapis.com/containerd.events.TaskExit", value=payload.value)
    envelope = event_pb2.Envelope(timestamp=at, namespace="elsewhere", topic="/tasks/exit", event=packed)
    await client.events.Forward(events_pb2.ForwardRequest(envelope=envelope))
    # A message that nobody here knows, and one that is broken, pass as they are.
    odd = any_pb2.Any(type_url="example.com/Odd", value=b"\xff\xff")
    broken = any_pb2.Any(type_url="containerd.events.TaskExit", value=b"\xff\xff")
    for each in (odd, broken):
        await client.events.Publish(events_pb2.PublishRequest(topic="/odd/one", event=each))
    target = descriptor_pb2.Descriptor(media_type=MANIFEST, digest=digest_of(b"x"), size=1)
    image = images_pb2.Image(name="image", target=target, labels={"a": "1"})
    await client.images.Create(images_pb2.CreateImageRequest(image=image))

    heard = [await subscription.read() for _ in range(5)]
    assert [(each.namespace, each.topic, each.event) for each in heard[:4]] == [
        ("testing", "/tasks/exit", payload),
        ("elsewhere", "/tasks/exit", packed),
        ("testing", "/odd/one", odd),
        ("testing", "/odd/one", broken),
    ]
    assert heard[1].timestamp == at
    assert heard[4].event.type_url == "containerd.services.images.v1.ImageCreate"
    created = image_pb2.ImageCreate.FromString(heard[4].event.value)
    assert created == image_pb2.ImageCreate(name="image", labels={"a": "1"})
    subscription.cancel()


async def test_events_that_cannot_be(client: Client) -> None:
    code = await refused(client.events.Publish(events_pb2.PublishRequest(topic="x")))
    assert code is Code.INVALID_ARGUMENT
    envelope = event_pb2.Envelope(namespace="x", topic="/x/y")
    code = await refused(client.events.Forward(events_pb2.ForwardRequest(envelope=envelope)))
    assert code is Code.INVALID_ARGUMENT
    bad = events_pb2.SubscribeRequest(filters=["topic="])
    assert await refused(client.events.Subscribe(bad)) is Code.INVALID_ARGUMENT
    nameless = client.with_headers(containerd_namespace="")
    publish = nameless.events.Publish(events_pb2.PublishRequest(topic="/x/y"))
    assert await refused(publish) is Code.FAILED_PRECONDITION


def test_fields_become_their_message_whatever_they_hold() -> None:
    at = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    fields = {
        "container_id": "box",
        "rootfs": [{"type": "bind", "source": "/x", "options": ["ro", "rbind"]}],
        "io": {"stdin": "/i", "terminal": True},
        "pid": 7,
        "unknown": "left out",
    }
    payload = convert.event_payload(
        Event(now(), "n", "/tasks/create", "containerd.events.TaskCreate", fields)
    )
    assert payload.type_url == "containerd.events.TaskCreate"
    message = task_pb2.TaskCreate.FromString(payload.value)
    assert message == task_pb2.TaskCreate(
        container_id="box",
        rootfs=[mount_pb2.Mount(type="bind", source="/x", options=["ro", "rbind"])],
        io=task_pb2.TaskIO(stdin="/i", terminal=True),
        pid=7,
    )
    fields = {"container_id": "box", "exit_status": 7, "exited_at": at, "reason": "died"}
    payload = convert.event_payload(Event(now(), "n", "/tasks/exit", "containerd.events.TaskExit", fields))
    assert task_pb2.TaskExit.FromString(payload.value).exited_at.ToDatetime(UTC) == at
    options = TypedBytes("options", b"\xff")
    fields = {"id": "box", "runtime": {"name": "runc", "options": options}}
    payload = convert.event_payload(Event(now(), "n", "/c/c", "containerd.events.ContainerCreate", fields))
    created = container_pb2.ContainerCreate.FromString(payload.value)
    assert created.runtime.options == any_pb2.Any(type_url="options", value=b"\xff")
    unknown = convert.event_payload(Event(now(), "n", "/c/c", "no.such.Message", {"a": "b"}))
    assert unknown == any_pb2.Any(type_url="no.such.Message")


def test_what_is_read_of_a_message_makes_the_same_message() -> None:
    message = task_pb2.TaskCreate(
        container_id="box",
        rootfs=[mount_pb2.Mount(type="bind", options=["ro"])],
        io=task_pb2.TaskIO(stdin="/i", terminal=True),
        pid=7,
    )
    again = task_pb2.TaskCreate()
    convert.fill(again, convert.read(message))
    assert again == message
    update = container_pb2.ContainerUpdate(id="x", labels={"a.b": "1"})
    assert convert.read(update) == {"id": "x", "labels": {"a.b": "1"}}
