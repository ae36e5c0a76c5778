"""containerd.services.diff.v1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from orlop_protos.containerd.services.diff.v1 import diff_pb2, diff_pb2_grpc
from orlopd.core.core import Core
from orlopd.core.diffs import Diffs
from orlopd.services.convert import from_descriptor, from_mounts, to_descriptor
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
            self._scope(context), from_descriptor(request.diff), from_mounts(request.mounts)
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
        )
        return diff_pb2.DiffResponse(diff=to_descriptor(descriptor))
