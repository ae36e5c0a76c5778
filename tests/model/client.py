"""The daemon as the model sees it: plain values in, plain values or a :class:`Refused` out."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import any_pb2, field_mask_pb2

from orlop_protos.containerd.services.containers.v1 import containers_pb2, containers_pb2_grpc
from orlop_protos.containerd.services.content.v1 import content_pb2, content_pb2_grpc
from orlop_protos.containerd.services.images.v1 import images_pb2, images_pb2_grpc
from orlop_protos.containerd.services.leases.v1 import leases_pb2, leases_pb2_grpc
from orlop_protos.containerd.services.namespaces.v1 import namespace_pb2, namespace_pb2_grpc
from orlop_protos.containerd.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from orlop_protos.containerd.types import descriptor_pb2
from tests.model.values import KINDS, MEDIA, RUNTIME, Image, Ingest, Labels, Refused, Snapshot, Target

DEADLINE = 30


@dataclass(frozen=True)
class Where:
    """A namespace, and the lease of the header."""

    namespace: str
    lease: str = ""

    @property
    def headers(self) -> list[tuple[str, str]]:
        lease = [("containerd-lease", self.lease)] if self.lease else []
        return [("containerd-namespace", self.namespace), *lease]


def _refused(error: grpc.RpcError) -> Refused:
    call: Any = error
    return Refused(call.code().name, call.details() or "")


def _mask(paths: Sequence[str]) -> field_mask_pb2.FieldMask | None:
    return field_mask_pb2.FieldMask(paths=paths) if paths else None


class Writer:
    """A stream of Write that stays open between messages."""

    def __init__(self, stub: Any, where: Where) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers = stub.Write(
            iter(self._requests.get, None), metadata=where.headers, timeout=10 * DEADLINE
        )

    def send(self, request: content_pb2.WriteContentRequest) -> tuple[int, str]:
        """Offset and digest of the answer."""
        self._requests.put(request)
        try:
            answer = next(self._answers)
        except grpc.RpcError as error:
            raise _refused(error) from None
        except StopIteration:
            raise Refused("CLOSED") from None
        return answer.offset, answer.digest

    def close(self) -> None:
        """Say that no more comes, and wait until the daemon has closed the writer."""
        self._requests.put(None)
        try:
            for _ in self._answers:
                pass
        except grpc.RpcError:
            pass


class Client:
    """Calls over one channel."""

    def __init__(self, channel: grpc.Channel, snapshotter: str) -> None:
        self.snapshotter = snapshotter
        self._content = content_pb2_grpc.ContentStub(channel)
        self._images = images_pb2_grpc.ImagesStub(channel)
        self._leases = leases_pb2_grpc.LeasesStub(channel)
        self._snapshots = snapshots_pb2_grpc.SnapshotsStub(channel)
        self._namespaces = namespace_pb2_grpc.NamespacesStub(channel)
        self._containers = containers_pb2_grpc.ContainersStub(channel)

    @staticmethod
    def _call(method: Callable[..., Any], request: Any, where: Where) -> Any:
        try:
            return method(request, metadata=where.headers, timeout=DEADLINE)
        except grpc.RpcError as error:
            raise _refused(error) from None

    @staticmethod
    def _stream(method: Callable[..., Any], request: Any, where: Where) -> Iterator[Any]:
        try:
            yield from method(request, metadata=where.headers, timeout=DEADLINE)
        except grpc.RpcError as error:
            raise _refused(error) from None

    # --- Content -------------------------------------------------------------------------------------

    def writer(self, where: Where) -> Writer:
        return Writer(self._content, where)

    def contents(self, where: Where, filters: Sequence[str] = ()) -> dict[str, tuple[int, Labels]]:
        request = content_pb2.ListContentRequest(filters=filters)
        found = [info for block in self._stream(self._content.List, request, where) for info in block.info]
        digests = [info.digest for info in found]
        assert digests == sorted(digests), "content comes in order"
        return {info.digest: (info.size, dict(info.labels)) for info in found}

    def info(self, where: Where, digest: str) -> tuple[int, Labels]:
        info = self._call(self._content.Info, content_pb2.InfoRequest(digest=digest), where).info
        return info.size, dict(info.labels)

    def read(self, where: Where, digest: str, offset: int, size: int) -> bytes:
        request = content_pb2.ReadContentRequest(digest=digest, offset=offset, size=size)
        return b"".join(answer.data for answer in self._stream(self._content.Read, request, where))

    def label(self, where: Where, digest: str, labels: Labels, paths: Sequence[str]) -> Labels:
        info = content_pb2.Info(digest=digest, labels=labels)
        request = content_pb2.UpdateRequest(info=info, update_mask=_mask(paths))
        return dict(self._call(self._content.Update, request, where).info.labels)

    def delete_content(self, where: Where, digest: str) -> None:
        self._call(self._content.Delete, content_pb2.DeleteContentRequest(digest=digest), where)

    def ingests(self, where: Where, filters: Sequence[str] = ()) -> dict[str, Ingest]:
        request = content_pb2.ListStatusesRequest(filters=filters)
        found = self._call(self._content.ListStatuses, request, where).statuses
        return {status.ref: Ingest(status.offset, status.total) for status in found}

    def status(self, where: Where, ref: str) -> Ingest:
        status = self._call(self._content.Status, content_pb2.StatusRequest(ref=ref), where).status
        assert status.ref == ref
        return Ingest(status.offset, status.total)

    def abort(self, where: Where, ref: str) -> None:
        self._call(self._content.Abort, content_pb2.AbortRequest(ref=ref), where)

    # --- Images --------------------------------------------------------------------------------------

    @staticmethod
    def _image(name: str, image: Image) -> images_pb2.Image:
        target = descriptor_pb2.Descriptor(
            media_type=MEDIA,
            digest=image.target.digest,
            size=image.target.size,
            annotations=image.target.annotations,
        )
        return images_pb2.Image(name=name, labels=image.labels, target=target)

    @staticmethod
    def _from_image(image: Any) -> Image:
        target = Target(image.target.digest, image.target.size, dict(image.target.annotations))
        return Image(target, dict(image.labels))

    def images(self, where: Where, filters: Sequence[str] = ()) -> dict[str, Image]:
        found = self._call(self._images.List, images_pb2.ListImagesRequest(filters=filters), where).images
        names = [image.name for image in found]
        assert names == sorted(names), "images come in order"
        return {image.name: self._from_image(image) for image in found}

    def create_image(self, where: Where, name: str, image: Image) -> Image:
        request = images_pb2.CreateImageRequest(image=self._image(name, image))
        return self._from_image(self._call(self._images.Create, request, where).image)

    def update_image(self, where: Where, name: str, image: Image, paths: Sequence[str]) -> Image:
        request = images_pb2.UpdateImageRequest(image=self._image(name, image), update_mask=_mask(paths))
        return self._from_image(self._call(self._images.Update, request, where).image)

    def delete_image(self, where: Where, name: str, *, sync: bool, digest: str = "") -> None:
        target = descriptor_pb2.Descriptor(digest=digest) if digest else None
        request = images_pb2.DeleteImageRequest(name=name, sync=sync, target=target)
        self._call(self._images.Delete, request, where)

    # --- Leases --------------------------------------------------------------------------------------

    def leases(self, where: Where, filters: Sequence[str] = ()) -> dict[str, Labels]:
        found = self._call(self._leases.List, leases_pb2.ListRequest(filters=filters), where).leases
        return {lease.id: dict(lease.labels) for lease in found}

    def resources(self, where: Where, id: str) -> set[tuple[str, str]]:
        found = self._call(self._leases.ListResources, leases_pb2.ListResourcesRequest(id=id), where)
        return {(resource.type, resource.id) for resource in found.resources}

    def create_lease(self, where: Where, id: str, labels: Labels) -> Labels:
        request = leases_pb2.CreateRequest(id=id, labels=labels)
        return dict(self._call(self._leases.Create, request, where).lease.labels)

    def delete_lease(self, where: Where, id: str, *, sync: bool) -> None:
        self._call(self._leases.Delete, leases_pb2.DeleteRequest(id=id, sync=sync), where)

    def add_resource(self, where: Where, id: str, type: str, resource: str) -> None:
        held = leases_pb2.Resource(type=type, id=resource)
        self._call(self._leases.AddResource, leases_pb2.AddResourceRequest(id=id, resource=held), where)

    def delete_resource(self, where: Where, id: str, type: str, resource: str) -> None:
        held = leases_pb2.Resource(type=type, id=resource)
        self._call(self._leases.DeleteResource, leases_pb2.DeleteResourceRequest(id=id, resource=held), where)

    # --- Snapshots -----------------------------------------------------------------------------------

    def snapshots(self, where: Where, filters: Sequence[str] = ()) -> dict[str, Snapshot]:
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=self.snapshotter, filters=filters)
        found = [info for block in self._stream(self._snapshots.List, request, where) for info in block.info]
        return {info.name: self._snapshot(info) for info in found}

    @staticmethod
    def _snapshot(info: Any) -> Snapshot:
        return Snapshot(KINDS[info.kind], info.parent, dict(info.labels))

    def stat(self, where: Where, key: str) -> Snapshot:
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=self.snapshotter, key=key)
        return self._snapshot(self._call(self._snapshots.Stat, request, where).info)

    def mounts(self, where: Where, key: str) -> bool:
        """Whether there are any."""
        request = snapshots_pb2.MountsRequest(snapshotter=self.snapshotter, key=key)
        return bool(self._call(self._snapshots.Mounts, request, where).mounts)

    def prepare(self, where: Where, key: str, parent: str, labels: Labels, *, view: bool) -> bool:
        """Whether there are mounts."""
        fields: Mapping[str, Any] = {
            "snapshotter": self.snapshotter,
            "key": key,
            "parent": parent,
            "labels": labels,
        }
        if view:
            answer = self._call(self._snapshots.View, snapshots_pb2.ViewSnapshotRequest(**fields), where)
        else:
            request = snapshots_pb2.PrepareSnapshotRequest(**fields)
            answer = self._call(self._snapshots.Prepare, request, where)
        return bool(answer.mounts)

    def commit(self, where: Where, name: str, key: str, labels: Labels) -> None:
        request = snapshots_pb2.CommitSnapshotRequest(
            snapshotter=self.snapshotter, name=name, key=key, labels=labels
        )
        self._call(self._snapshots.Commit, request, where)

    def remove_snapshot(self, where: Where, key: str) -> None:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=self.snapshotter, key=key)
        self._call(self._snapshots.Remove, request, where)

    def label_snapshot(self, where: Where, key: str, labels: Labels, paths: Sequence[str]) -> Labels:
        request = snapshots_pb2.UpdateSnapshotRequest(
            snapshotter=self.snapshotter,
            info=snapshots_pb2.Info(name=key, labels=labels),
            update_mask=_mask(paths),
        )
        return dict(self._call(self._snapshots.Update, request, where).info.labels)

    # --- Containers ----------------------------------------------------------------------------------

    def containers(self, where: Where) -> dict[str, tuple[str, Labels]]:
        found = self._call(self._containers.List, containers_pb2.ListContainersRequest(), where).containers
        return {each.id: (each.snapshot_key, dict(each.labels)) for each in found}

    def create_container(self, where: Where, id: str, key: str, labels: Labels) -> None:
        container = containers_pb2.Container(
            id=id,
            labels=labels,
            runtime=containers_pb2.Container.Runtime(name=RUNTIME),
            spec=any_pb2.Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b"{}"),
            snapshotter=self.snapshotter if key else "",
            snapshot_key=key,
        )
        self._call(self._containers.Create, containers_pb2.CreateContainerRequest(container=container), where)

    def delete_container(self, where: Where, id: str) -> None:
        self._call(self._containers.Delete, containers_pb2.DeleteContainerRequest(id=id), where)

    # --- Namespaces ----------------------------------------------------------------------------------

    def namespaces(self) -> dict[str, Labels]:
        found = self._call(self._namespaces.List, namespace_pb2.ListNamespacesRequest(), Where("default"))
        return {each.name: dict(each.labels) for each in found.namespaces}

    def create_namespace(self, name: str, labels: Labels) -> None:
        namespace = namespace_pb2.Namespace(name=name, labels=labels)
        request = namespace_pb2.CreateNamespaceRequest(namespace=namespace)
        self._call(self._namespaces.Create, request, Where(name))

    def update_namespace(self, name: str, labels: Labels, paths: Sequence[str]) -> Labels:
        namespace = namespace_pb2.Namespace(name=name, labels=labels)
        request = namespace_pb2.UpdateNamespaceRequest(namespace=namespace, update_mask=_mask(paths))
        return dict(self._call(self._namespaces.Update, request, Where(name)).namespace.labels)

    def delete_namespace(self, name: str) -> None:
        request = namespace_pb2.DeleteNamespaceRequest(name=name)
        self._call(self._namespaces.Delete, request, Where(name))
