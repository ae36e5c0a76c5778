"""A snapshotter over a socket (containerd.services.snapshots.v1)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from orlop_protos.containerd.services.snapshots.v1 import snapshots_pb2 as api
from orlop_protos.containerd.services.snapshots.v1 import snapshots_pb2_grpc
from orlopd.plugin.errors import Unimplemented
from orlopd.plugin.remote import Peer
from orlopd.plugin.snapshots import REBASE
from orlopd.plugin.values import NO_LABELS, Labels, Mount, SnapshotInfo, SnapshotKind, Usage

from .connection import Connection, from_mounts, from_timestamp

_KINDS = {
    api.VIEW: SnapshotKind.VIEW,
    api.ACTIVE: SnapshotKind.ACTIVE,
    api.COMMITTED: SnapshotKind.COMMITTED,
}


class ProxySnapshotter:
    """Implements :class:`orlopd.plugin.snapshots.RebasingSnapshotter`."""

    def __init__(self, peer: Peer) -> None:
        self._connection = Connection(peer)
        self._name = peer.name
        self.rebases = REBASE in peer.capabilities

    @property
    def _stub(self) -> Any:
        return snapshots_pb2_grpc.SnapshotsStub(self._connection.channel)

    async def _call(self, method: Any, request: Any, key: str = "") -> Any:
        return await self._connection.call(method, request, _namespace(key))

    async def stat(self, key: str) -> SnapshotInfo:
        request = api.StatSnapshotRequest(snapshotter=self._name, key=key)
        return _info((await self._call(self._stub.Stat, request, key)).info)

    async def set_labels(self, key: str, labels: Labels) -> SnapshotInfo:
        request = api.UpdateSnapshotRequest(
            snapshotter=self._name,
            info=api.Info(name=key, labels=labels),
            update_mask=FieldMask(paths=["labels"]),
        )
        return _info((await self._call(self._stub.Update, request, key)).info)

    async def walk(self) -> AsyncIterator[SnapshotInfo]:
        request = api.ListSnapshotsRequest(snapshotter=self._name)
        # containerd's own walk in the order of keys, in which a child may come first.
        waiting: dict[str, list[SnapshotInfo]] = {}
        shown: set[str] = set()
        async for response in self._connection.stream(self._stub.List, request):
            for message in response.info:
                info = _info(message)
                if info.parent and info.parent not in shown:
                    waiting.setdefault(info.parent, []).append(info)
                    continue
                ready = [info]
                while ready:
                    info = ready.pop()
                    shown.add(info.name)
                    yield info
                    ready += waiting.pop(info.name, [])
        for rest in waiting.values():  # the parent is gone, or hidden from us
            for info in rest:
                yield info

    async def usage(self, key: str) -> Usage:
        request = api.UsageRequest(snapshotter=self._name, key=key)
        said = await self._call(self._stub.Usage, request, key)
        return Usage(said.inodes, said.size)

    async def mounts(self, key: str) -> Sequence[Mount]:
        request = api.MountsRequest(snapshotter=self._name, key=key)
        return from_mounts((await self._call(self._stub.Mounts, request, key)).mounts)

    async def prepare(self, key: str, parent: str, labels: Labels = NO_LABELS) -> Sequence[Mount]:
        request = api.PrepareSnapshotRequest(snapshotter=self._name, key=key, parent=parent, labels=labels)
        return from_mounts((await self._call(self._stub.Prepare, request, key)).mounts)

    async def view(self, key: str, parent: str, labels: Labels = NO_LABELS) -> Sequence[Mount]:
        request = api.ViewSnapshotRequest(snapshotter=self._name, key=key, parent=parent, labels=labels)
        return from_mounts((await self._call(self._stub.View, request, key)).mounts)

    async def commit(self, name: str, key: str, labels: Labels = NO_LABELS) -> None:
        await self.commit_onto(name, key, "", labels)

    async def commit_onto(self, name: str, key: str, parent: str, labels: Labels = NO_LABELS) -> None:
        if parent and not self.rebases:
            raise Unimplemented(
                f"proxy plugin {self._name} is not known to change a snapshot's parent",
                hint=f'if it can, say capabilities = ["{REBASE}"] in its section of the config',
            )
        request = api.CommitSnapshotRequest(
            snapshotter=self._name, name=name, key=key, labels=labels, parent=parent
        )
        await self._call(self._stub.Commit, request, key)

    async def remove(self, key: str) -> None:
        await self._call(self._stub.Remove, api.RemoveSnapshotRequest(snapshotter=self._name, key=key), key)

    async def cleanup(self) -> None:
        try:
            await self._call(self._stub.Cleanup, api.CleanupRequest(snapshotter=self._name))
        except Unimplemented:
            return  # it is not asked of every one

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.aclose()


def _namespace(key: str) -> str:
    """The namespace in a key as the core makes it, ``NAMESPACE/NUMBER/KEY``."""
    namespace, _, rest = key.partition("/")
    return namespace if rest.partition("/")[0].isdecimal() else ""


def _info(message: api.Info) -> SnapshotInfo:
    return SnapshotInfo(
        name=message.name,
        kind=_KINDS.get(message.kind, SnapshotKind.ACTIVE),
        parent=message.parent,
        labels=dict(message.labels),
        created_at=from_timestamp(message.created_at),
        updated_at=from_timestamp(message.updated_at),
    )
