"""containerd.services.snapshots.v1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Self

from google.protobuf import empty_pb2

from orlop_protos.containerd.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from orlopd.core.core import Core
from orlopd.core.snapshots import NamespacedSnapshotter, Snapshots
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import SnapshotInfo, SnapshotKind
from orlopd.services.convert import paths_of, to_mounts, to_timestamp
from orlopd.services.scope import ScopeOf, scope_of

BLOCK = 100
"""How many snapshots of a list a message carries."""

_KINDS = {
    SnapshotKind.VIEW: snapshots_pb2.VIEW,
    SnapshotKind.ACTIVE: snapshots_pb2.ACTIVE,
    SnapshotKind.COMMITTED: snapshots_pb2.COMMITTED,
}


class SnapshotsService(snapshots_pb2_grpc.SnapshotsServicer):
    """Root filesystems by key."""

    def __init__(self, core: Core) -> None:
        self._snapshots = core.snapshots
        self._scope = scope_of

    @classmethod
    def over(cls, part: Snapshots, scope: ScopeOf) -> Self:
        """The same over one part. :param scope: says whom a call is for"""
        service = cls.__new__(cls)
        service._snapshots, service._scope = part, scope
        return service

    def register(self, server: Any) -> Sequence[str]:
        snapshots_pb2_grpc.add_SnapshotsServicer_to_server(self, server)
        return [snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"].full_name]

    def _snapshotter(self, request: Any) -> NamespacedSnapshotter:
        if not request.snapshotter:
            raise InvalidArgument("snapshotter argument missing: invalid argument")
        return self._snapshots.for_name(request.snapshotter)

    async def Prepare(self, request: Any, context: Any) -> snapshots_pb2.PrepareSnapshotResponse:
        mounts = await self._snapshotter(request).prepare(
            self._scope(context), request.key, request.parent, dict(request.labels)
        )
        return snapshots_pb2.PrepareSnapshotResponse(mounts=to_mounts(mounts))

    async def View(self, request: Any, context: Any) -> snapshots_pb2.ViewSnapshotResponse:
        mounts = await self._snapshotter(request).view(
            self._scope(context), request.key, request.parent, dict(request.labels)
        )
        return snapshots_pb2.ViewSnapshotResponse(mounts=to_mounts(mounts))

    async def Mounts(self, request: Any, context: Any) -> snapshots_pb2.MountsResponse:
        mounts = await self._snapshotter(request).mounts(self._scope(context), request.key)
        return snapshots_pb2.MountsResponse(mounts=to_mounts(mounts))

    async def Commit(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self._snapshotter(request).commit(
            self._scope(context), request.name, request.key, dict(request.labels), parent=request.parent
        )
        return empty_pb2.Empty()

    async def Remove(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self._snapshotter(request).remove(self._scope(context), request.key)
        return empty_pb2.Empty()

    async def Stat(self, request: Any, context: Any) -> snapshots_pb2.StatSnapshotResponse:
        info = await self._snapshotter(request).stat(self._scope(context), request.key)
        return snapshots_pb2.StatSnapshotResponse(info=_message(info))

    async def Update(self, request: Any, context: Any) -> snapshots_pb2.UpdateSnapshotResponse:
        wanted = SnapshotInfo(request.info.name, SnapshotKind.ACTIVE, labels=dict(request.info.labels))
        info = await self._snapshotter(request).update(self._scope(context), wanted, paths_of(request))
        return snapshots_pb2.UpdateSnapshotResponse(info=_message(info))

    async def List(self, request: Any, context: Any) -> AsyncIterator[snapshots_pb2.ListSnapshotsResponse]:
        block: list[snapshots_pb2.Info] = []
        async for info in self._snapshotter(request).walk(self._scope(context), list(request.filters)):
            block.append(_message(info))
            if len(block) == BLOCK:
                yield snapshots_pb2.ListSnapshotsResponse(info=block)
                block = []
        if block:
            yield snapshots_pb2.ListSnapshotsResponse(info=block)

    async def Usage(self, request: Any, context: Any) -> snapshots_pb2.UsageResponse:
        usage = await self._snapshotter(request).usage(self._scope(context), request.key)
        return snapshots_pb2.UsageResponse(size=usage.size, inodes=usage.inodes)

    async def Cleanup(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self._snapshotter(request).cleanup(self._scope(context))
        return empty_pb2.Empty()


def _message(info: SnapshotInfo) -> snapshots_pb2.Info:
    return snapshots_pb2.Info(
        name=info.name,
        parent=info.parent,
        kind=_KINDS[info.kind],
        created_at=to_timestamp(info.created_at),
        updated_at=to_timestamp(info.updated_at),
        labels=dict(info.labels),
    )
