"""The services of the metadata core over a socket, for tests of what travels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import pytest

from orlop_protos.containerd.services.containers.v1 import containers_pb2_grpc
from orlop_protos.containerd.services.content.v1 import content_pb2, content_pb2_grpc
from orlop_protos.containerd.services.diff.v1 import diff_pb2_grpc
from orlop_protos.containerd.services.events.v1 import events_pb2_grpc
from orlop_protos.containerd.services.images.v1 import images_pb2_grpc
from orlop_protos.containerd.services.leases.v1 import leases_pb2_grpc
from orlop_protos.containerd.services.namespaces.v1 import namespace_pb2_grpc
from orlop_protos.containerd.services.snapshots.v1 import snapshots_pb2_grpc
from orlopd.core.store import Store
from orlopd.plugin import BlobReader, Ingest
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Descriptor, Mount
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
from tests.support.store import digest_of

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
