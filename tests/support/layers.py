"""Snapshots and layers of a daemon, by containerd's services, and images of layers that it made."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from orlop_protos.containerd.services.content.v1 import content_pb2, content_pb2_grpc
from orlop_protos.containerd.services.diff.v1 import diff_pb2, diff_pb2_grpc
from orlop_protos.containerd.services.leases.v1 import leases_pb2, leases_pb2_grpc
from orlop_protos.containerd.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from orlop_protos.containerd.types import descriptor_pb2
from orlopd.plugin.mount import mounted
from orlopd.plugin.values import Mount

from .daemon import Daemon
from .images import ARCHITECTURE, CONFIG, INDEX, MANIFEST, SmallImage, digest_of

T = TypeVar("T")
_UNCOMPRESSED = "containerd.io/uncompressed"


class Layer(NamedTuple):
    """A layer as content."""

    media_type: str
    data: bytes
    diff_id: str


class Layers:
    """What a client of containerd's services does with snapshots and layers.

    Used within a ``with`` block, under a lease: what it made goes in the end.
    """

    def __init__(self, daemon: Daemon, snapshotter: str = "overlayfs") -> None:
        self.daemon = daemon
        self._snapshotter = snapshotter
        self._lease = f"lease-{secrets.token_hex(4)}"
        metadata = [("containerd-namespace", daemon.namespace), ("containerd-lease", self._lease)]
        self._with: Any = {"metadata": metadata, "timeout": 60}

    def __enter__(self) -> Layers:
        self.channel = self.daemon.channel()
        self._snapshots: Any = snapshots_pb2_grpc.SnapshotsStub(self.channel)
        self._diffs: Any = diff_pb2_grpc.DiffStub(self.channel)
        self._content: Any = content_pb2_grpc.ContentStub(self.channel)
        self._leases: Any = leases_pb2_grpc.LeasesStub(self.channel)
        self._leases.Create(leases_pb2.CreateRequest(id=self._lease), **self._with)
        return self

    def __exit__(self, *_: object) -> None:
        self._leases.Delete(leases_pb2.DeleteRequest(id=self._lease, sync=True), **self._with)
        self.channel.close()

    def prepare(self, parent: str, *, view: bool = False) -> Any:
        """The mounts of a new snapshot."""
        key = f"key-{secrets.token_hex(4)}"
        fields: Any = {"snapshotter": self._snapshotter, "key": key, "parent": parent}
        answer = (
            self._snapshots.View(snapshots_pb2.ViewSnapshotRequest(**fields), **self._with)
            if view
            else self._snapshots.Prepare(snapshots_pb2.PrepareSnapshotRequest(**fields), **self._with)
        )
        self._key = key
        return answer.mounts

    def commit(self) -> str:
        """Commit the snapshot that was made last; its name."""
        key = self._key
        name = f"committed-{key}"
        request = snapshots_pb2.CommitSnapshotRequest(snapshotter=self._snapshotter, name=name, key=key)
        self._snapshots.Commit(request, **self._with)
        return name

    def keys(self, snapshotter: str = "") -> set[str]:
        """The snapshots there are."""
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=snapshotter or self._snapshotter)
        return {info.name for block in self._snapshots.List(request, **self._with) for info in block.info}

    def see(self, parent: str, look: Callable[[Path], T]) -> T:
        """What ``look`` finds in a snapshot."""
        return inside(self.prepare(parent, view=True), look)

    def diff(self, lower: Any, upper: Any, media_type: str = "", **fields: Any) -> Layer:
        """The layer between two mounts."""
        request = diff_pb2.DiffRequest(left=lower, right=upper, media_type=media_type, **fields)
        made = self._diffs.Diff(request, **self._with).diff
        data = b"".join(
            part.data
            for part in self._content.Read(content_pb2.ReadContentRequest(digest=made.digest), **self._with)
        )
        info = self._content.Info(content_pb2.InfoRequest(digest=made.digest), **self._with).info
        assert (digest_of(data), len(data)) == (made.digest, made.size)
        return Layer(made.media_type, data, info.labels[_UNCOMPRESSED])

    def collect(self) -> None:
        """Have a whole collection done."""
        lease = f"lease-{secrets.token_hex(4)}"
        self._leases.Create(leases_pb2.CreateRequest(id=lease), **self._with)
        self._leases.Delete(leases_pb2.DeleteRequest(id=lease, sync=True), **self._with)

    def add(self, data: bytes) -> None:
        """Store a blob."""
        request = content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT,
            ref=digest_of(data),
            total=len(data),
            expected=digest_of(data),
            data=data,
        )
        for _ in self._content.Write(iter([request]), **self._with):
            pass

    def labels(self, data: bytes) -> Mapping[str, str]:
        """The labels of a blob."""
        return self._content.Info(content_pb2.InfoRequest(digest=digest_of(data)), **self._with).info.labels

    def apply(self, layer: Layer, mounts: Any, **fields: Any) -> str:
        """Unpack a layer that the daemon has; the diff id it found."""
        descriptor = descriptor_pb2.Descriptor(
            media_type=layer.media_type, digest=digest_of(layer.data), size=len(layer.data)
        )
        request = diff_pb2.ApplyRequest(diff=descriptor, mounts=mounts, **fields)
        return self._diffs.Apply(request, **self._with).applied.digest


def inside(mounts: Any, work: Callable[[Path], T]) -> T:
    """What ``work`` returns when it is called with the folder that shows the mounts of an answer."""
    with mounted([Mount(each.type, each.source, tuple(each.options)) for each in mounts]) as root:
        return work(root)


def image_of(layers: Sequence[Layer], config: Mapping[str, Any] | None = None) -> SmallImage:
    """An OCI image of layers as they are."""
    document = {
        "os": "linux",
        "architecture": ARCHITECTURE,
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": "1970-01-01T00:00:00Z"}] * len(layers),
    }
    blobs = {digest_of(layer.data): layer.data for layer in layers}

    def add(value: Any, media_type: str) -> dict[str, Any]:
        data = json.dumps(value).encode()
        blobs[digest_of(data)] = data
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": add(document, CONFIG),
        "layers": [
            {"mediaType": layer.media_type, "digest": digest_of(layer.data), "size": len(layer.data)}
            for layer in layers
        ],
    }
    return SmallImage(add(manifest, MANIFEST), blobs)


def diff_ids(layout: Path, tag: str = "") -> list[str]:
    """The diff ids of an image in a layout directory; of the only one without a tag."""

    def blob(descriptor: Any) -> Any:
        return json.loads((layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes())

    index = json.loads((layout / "index.json").read_bytes())
    (entry,) = (
        each
        for each in index["manifests"]
        if not tag or each.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag
    )
    document = blob(entry)
    if document.get("mediaType") == INDEX or "manifests" in document:
        document = blob(document["manifests"][0])
    return blob(document["config"])["rootfs"]["diff_ids"]
