"""containerd.services.snapshots.v1 and diff.v1: what travels, and with which codes it is refused."""

from __future__ import annotations

from typing import Any

from google.protobuf import field_mask_pb2

from orlop_protos.containerd.services.content.v1 import content_pb2
from orlop_protos.containerd.services.diff.v1 import diff_pb2
from orlop_protos.containerd.services.snapshots.v1 import snapshots_pb2
from orlop_protos.containerd.types import descriptor_pb2, mount_pb2
from tests.support.services import Client, Code, add, refused
from tests.support.store import digest_of


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
