"""A differ over a socket (containerd.services.diff.v1)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import any_pb2

from orlop_protos.containerd.services.diff.v1 import diff_pb2 as api
from orlop_protos.containerd.services.diff.v1 import diff_pb2_grpc
from orlopd.plugin.content import BlobReader, Ingest
from orlopd.plugin.diff import Progress
from orlopd.plugin.errors import Unimplemented
from orlopd.plugin.remote import NO_PAYLOADS, Peer
from orlopd.plugin.values import NO_LABELS, Descriptor, Labels, Mount, TypedBytes

from .connection import Connection, from_descriptor, to_descriptor, to_mounts

_LAYER = re.compile(r"application/vnd\.(oci\.image\.layer\.|docker\.image\.rootfs\.).*")


class ProxyDiffer:
    """Implements :class:`orlopd.plugin.remote.RemoteDiffer`. The peer reads layers from this daemon's socket,
    and writes there."""

    def __init__(self, peer: Peer) -> None:
        self._connection = Connection(peer)

    @property
    def _stub(self) -> Any:
        return diff_pb2_grpc.DiffStub(self._connection.channel)

    def handles(self, media_type: str) -> bool:
        return _LAYER.fullmatch(media_type) is not None

    async def apply_in(
        self,
        namespace: str,
        layer: Descriptor,
        mounts: Sequence[Mount],
        *,
        payloads: Mapping[str, TypedBytes] = NO_PAYLOADS,
        sync: bool = False,
    ) -> Descriptor:
        wanted = {
            name: any_pb2.Any(type_url=each.type_url, value=each.value) for name, each in payloads.items()
        }
        request = api.ApplyRequest(
            diff=to_descriptor(layer), mounts=to_mounts(mounts), payloads=wanted, sync_fs=sync
        )
        return from_descriptor((await self._connection.call(self._stub.Apply, request, namespace)).applied)

    async def diff_in(
        self,
        namespace: str,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str,
        *,
        ref: str = "",
        labels: Labels = NO_LABELS,
        newest: int | None = None,
    ) -> Descriptor:
        request = api.DiffRequest(
            left=to_mounts(lower), right=to_mounts(upper), media_type=media_type, ref=ref, labels=labels
        )
        if newest is not None:
            request.source_date_epoch.seconds, request.source_date_epoch.nanos = divmod(newest, 10**9)
        return from_descriptor((await self._connection.call(self._stub.Diff, request, namespace)).diff)

    async def apply(
        self,
        layer: Descriptor,
        blob: BlobReader,
        mounts: Sequence[Mount],
        *,
        progress: Progress | None = None,
    ) -> Descriptor:
        raise self._cannot()

    async def diff(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str,
        sink: Ingest,
        *,
        newest: int | None = None,
    ) -> str:
        raise self._cannot()

    async def unpack_tar(
        self, blob: BlobReader, mounts: Sequence[Mount], *, uids: str = "", gids: str = ""
    ) -> int:
        raise self._cannot()

    def _cannot(self) -> Unimplemented:
        return Unimplemented(
            f"proxy plugin {self._connection.peer.name} works on the daemon's content alone",
            hint="the protocol of proxy plugins has no other way",
        )

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.aclose()
