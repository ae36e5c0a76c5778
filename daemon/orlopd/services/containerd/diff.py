"""containerd.services.diff.v1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from orlop_protos.containerd.services.diff.v1 import diff_pb2, diff_pb2_grpc
from orlopd.core.core import Core
from orlopd.core.diffs import Diffs
from orlopd.services.convert import from_any, from_descriptor, from_mounts, from_timestamp, to_descriptor
from orlopd.services.scope import ScopeOf, scope_of


class DiffService(diff_pb2_grpc.DiffServicer):
    """Applies layers and makes them."""

    def __init__(self, core: Core) -> None:
        self._diffs = core.diffs
        self._scope = scope_of

    @classmethod
    def over(cls, part: Diffs, scope: ScopeOf) -> Self:
        """The same over one part. :param scope: says whom a call is for"""
        service = cls.__new__(cls)
        service._diffs, service._scope = part, scope
        return service

    def register(self, server: Any) -> Sequence[str]:
        diff_pb2_grpc.add_DiffServicer_to_server(self, server)
        return [diff_pb2.DESCRIPTOR.services_by_name["Diff"].full_name]

    async def Apply(self, request: Any, context: Any) -> diff_pb2.ApplyResponse:
        applied = await self._diffs.apply(
            self._scope(context),
            from_descriptor(request.diff),
            from_mounts(request.mounts),
            payloads={name: from_any(payload) for name, payload in request.payloads.items()},
            sync=request.sync_fs,
        )
        return diff_pb2.ApplyResponse(applied=to_descriptor(applied))

    async def Diff(self, request: Any, context: Any) -> diff_pb2.DiffResponse:
        descriptor = await self._diffs.diff(
            self._scope(context),
            from_mounts(request.left),
            from_mounts(request.right),
            media_type=request.media_type,
            ref=request.ref,
            labels=dict(request.labels),
            newest=_nanoseconds(request.source_date_epoch) if request.HasField("source_date_epoch") else None,
        )
        return diff_pb2.DiffResponse(diff=to_descriptor(descriptor))


def _nanoseconds(stamp: Any) -> int:
    from_timestamp(stamp)  # refuses what is no time
    return stamp.seconds * 10**9 + stamp.nanos
