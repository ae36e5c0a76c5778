"""The services of one daemon as one namespace calls them."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import grpc

from orlop_protos.containerd.services.content.v1 import content_pb2, content_pb2_grpc
from orlop_protos.containerd.services.images.v1 import images_pb2, images_pb2_grpc
from orlop_protos.containerd.services.leases.v1 import leases_pb2, leases_pb2_grpc
from orlop_protos.containerd.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from orlop_protos.containerd.types import descriptor_pb2
from orlop_protos.orlop.engine.v1 import images_pb2 as engine_pb2
from orlop_protos.orlop.engine.v1 import images_pb2_grpc as engine_pb2_grpc

from .ledger import LASTING, PREFIX, Key

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SNAPSHOTTERS = ("overlayfs", "vfs")
TIMEOUT = 60.0

_CHUNK = 64 << 10


class Api:
    """Calls raise grpc.RpcError."""

    def __init__(self, channel: grpc.Channel, namespace: str) -> None:
        self._namespace = namespace
        self._content: Any = content_pb2_grpc.ContentStub(channel)
        self._images: Any = images_pb2_grpc.ImagesStub(channel)
        self._leases: Any = leases_pb2_grpc.LeasesStub(channel)
        self._snapshots: Any = snapshots_pb2_grpc.SnapshotsStub(channel)
        self._engine: Any = engine_pb2_grpc.ImageServiceStub(channel)

    def _with(self, lease: str = "") -> dict[str, Any]:
        headers = [("containerd-namespace", self._namespace)]
        if lease:
            headers.append(("containerd-lease", lease))
        return {"metadata": headers, "timeout": TIMEOUT}

    # --- Content -------------------------------------------------------------------------------------

    def upload(self, ref: str, *, total: int = 0, expected: str = "", lease: str = "") -> Upload:
        """Open the writer of a ref."""
        return Upload(self._content.Write, self._with(lease), ref, total, expected)

    def put(self, ref: str, data: bytes, digest: str, *, lease: str = "", labels: Any = None) -> None:
        """Bring in a blob at once; one that is there already is no error."""
        try:
            with self.upload(ref, total=len(data), lease=lease) as upload:
                for start in range(0, len(data), 1 << 20):
                    upload.write(data[start : start + (1 << 20)])
                upload.commit(digest, labels or {})
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise

    def abort(self, ref: str) -> None:
        """Forget an ingest."""
        self._content.Abort(content_pb2.AbortRequest(ref=ref), **self._with())

    def info(self, digest: str) -> dict[str, str]:
        """A blob's labels."""
        answer = self._content.Info(content_pb2.InfoRequest(digest=digest), **self._with())
        return dict(answer.info.labels)

    def label(self, digest: str, key: str, value: str) -> None:
        """Set one label of a blob."""
        request = content_pb2.UpdateRequest(info=content_pb2.Info(digest=digest, labels={key: value}))
        request.update_mask.paths.append(f"labels.{key}")
        self._content.Update(request, **self._with())

    def delete_content(self, digest: str) -> None:
        """Forget a blob."""
        self._content.Delete(content_pb2.DeleteContentRequest(digest=digest), **self._with())

    def read(self, digest: str) -> bytes:
        """A whole blob."""
        request = content_pb2.ReadContentRequest(digest=digest)
        return b"".join(part.data for part in self._content.Read(request, **self._with()))

    # --- Images, leases ------------------------------------------------------------------------------

    def create_image(self, name: str, digest: str) -> None:
        """Name a blob."""
        self._images.Create(images_pb2.CreateImageRequest(image=_image(name, digest)), **self._with())

    def update_image(self, name: str, digest: str) -> None:
        """Point a name at another blob."""
        request = images_pb2.UpdateImageRequest(image=_image(name, digest))
        request.update_mask.paths.append("target")
        self._images.Update(request, **self._with())

    def delete_image(self, name: str, *, sync: bool) -> None:
        """Remove a name."""
        self._images.Delete(images_pb2.DeleteImageRequest(name=name, sync=sync), **self._with())

    def create_lease(self, id: str, expires: datetime | None = None) -> None:
        """Make a lease."""
        labels = {} if expires is None else {f"{PREFIX}expire": expires.isoformat()}
        self._leases.Create(leases_pb2.CreateRequest(id=id, labels=labels), **self._with())

    def delete_lease(self, id: str, *, sync: bool) -> None:
        """End a lease."""
        self._leases.Delete(leases_pb2.DeleteRequest(id=id, sync=sync), **self._with())

    def add_resource(self, lease: str, type: str, id: str) -> None:
        """Have a lease hold a thing."""
        resource = leases_pb2.Resource(type=type, id=id)
        request = leases_pb2.AddResourceRequest(id=lease, resource=resource)
        self._leases.AddResource(request, **self._with())

    def collect(self, name: str) -> None:
        """Have a whole collection done."""
        self.create_lease(name)
        self.delete_lease(name, sync=True)

    # --- Snapshots -----------------------------------------------------------------------------------

    def prepare(self, snapshotter: str, key: str, parent: str, *, lease: str = "", labels: Any = None) -> Any:
        """Make an active snapshot; its mounts."""
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=snapshotter, key=key, parent=parent, labels=labels or {}
        )
        return self._snapshots.Prepare(request, **self._with(lease)).mounts

    def mounts(self, snapshotter: str, key: str) -> Any:
        """How to mount a snapshot that is not committed."""
        request = snapshots_pb2.MountsRequest(snapshotter=snapshotter, key=key)
        return self._snapshots.Mounts(request, **self._with()).mounts

    def commit_snapshot(self, snapshotter: str, name: str, key: str, labels: Any) -> None:
        """Turn an active snapshot into a committed one."""
        request = snapshots_pb2.CommitSnapshotRequest(
            snapshotter=snapshotter, name=name, key=key, labels=labels
        )
        self._snapshots.Commit(request, **self._with())

    def remove_snapshot(self, snapshotter: str, key: str) -> None:
        """Remove a snapshot."""
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
        self._snapshots.Remove(request, **self._with())

    # --- The engine's --------------------------------------------------------------------------------

    def load(self, archive: bytes, snapshotter: str = "") -> None:
        """Store the images of an archive."""

        def requests() -> Iterator[Any]:
            yield engine_pb2.ImportRequest(options=engine_pb2.ImportOptions(snapshotter=snapshotter))
            for start in range(0, len(archive), _CHUNK):
                yield engine_pb2.ImportRequest(chunk=archive[start : start + _CHUNK])

        for _ in self._engine.Import(requests(), **self._with()):
            pass

    def pull(self, reference: str, snapshotter: str = "") -> None:
        """Fetch an image."""
        request = engine_pb2.PullRequest(reference=reference, snapshotter=snapshotter, plain_http=True)
        for _ in self._engine.Pull(request, **self._with()):
            pass

    # --- All of it -----------------------------------------------------------------------------------

    def observe(self) -> dict[Key, Any]:
        """Everything in the namespace but ingests, in a ledger's terms."""
        found: dict[Key, Any] = {}
        # The roots first: what vanishes meanwhile is what they do not keep.
        for image in self._images.List(images_pb2.ListImagesRequest(), **self._with()).images:
            found["image", image.name] = image.target.digest
        for lease in self._leases.List(leases_pb2.ListRequest(), **self._with()).leases:
            until = lease.labels.get(f"{PREFIX}expire")
            found["lease", lease.id] = datetime.fromisoformat(until).timestamp() if until else LASTING
            request = leases_pb2.ListResourcesRequest(id=lease.id)
            try:
                resources = self._leases.ListResources(request, **self._with()).resources
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:  # it expired just now
                    raise
                continue
            for resource in resources:
                found["held", lease.id, resource.type, resource.id] = True
        for snapshotter in SNAPSHOTTERS:
            list_request = snapshots_pb2.ListSnapshotsRequest(snapshotter=snapshotter)
            for answer in self._snapshots.List(list_request, **self._with()):
                for info in answer.info:
                    root = f"{PREFIX}root" in info.labels
                    found["snapshot", snapshotter, info.name] = (info.kind, info.parent, root)
        for answer in self._content.List(content_pb2.ListContentRequest(), **self._with()):
            for info in answer.info:
                found["content", info.digest] = dict(info.labels)
        return found


class Upload:
    """The one writer of a ref; a context manager."""

    def __init__(self, write: Any, options: dict[str, Any], ref: str, total: int, expected: str) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call = write(iter(self._requests.get, None), **options)
        self._ref, self._total, self._expected = ref, total, expected
        self.offset = 0

    def __enter__(self) -> Upload:
        self.stat()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the ref."""
        self._requests.put(None)
        self._call.cancel()

    def _say(self, action: int, **fields: Any) -> Any:
        request = content_pb2.WriteContentRequest(
            action=action,  # pyright: ignore[reportArgumentType] (a number of the enum)
            ref=self._ref,
            total=self._total,
            expected=self._expected,
            **fields,
        )
        self._requests.put(request)
        try:
            answer = next(self._call)
        except BaseException:
            self.close()
            raise
        self.offset = answer.offset
        return answer

    def stat(self) -> int:
        """Where the ingest stands."""
        self._say(content_pb2.STAT)
        return self.offset

    def write(self, data: bytes) -> int:
        """Append; the new offset."""
        self._say(content_pb2.WRITE, offset=self.offset, data=data)
        return self.offset

    def commit(self, digest: str, labels: dict[str, str]) -> None:
        """Make a blob of it."""
        self._expected = digest
        self._say(content_pb2.COMMIT, offset=self.offset, labels=labels)


def _image(name: str, digest: str) -> images_pb2.Image:
    target = descriptor_pb2.Descriptor(media_type=MANIFEST, digest=digest, size=10)
    return images_pb2.Image(name=name, target=target)
