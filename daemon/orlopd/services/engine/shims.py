"""orlop.engine.v1.ShimService."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from orlop_protos.orlop.engine.v1 import shims_pb2, shims_pb2_grpc
from orlopd.core.core import Core
from orlopd.core.engine.record import name_of
from orlopd.core.engine.shims import ShimView
from orlopd.services.convert import to_timestamp
from orlopd.services.scope import engine_scope_of

# Streaming methods are coroutines that write; the stubs know generators alone.
_Base: Any = shims_pb2_grpc.ShimServiceServicer


class ShimService(_Base):
    """Shims, for those who operate the daemon."""

    def __init__(self, core: Core) -> None:
        self._shims = core.engine.shims

    def register(self, server: Any) -> Sequence[str]:
        shims_pb2_grpc.add_ShimServiceServicer_to_server(self, server)
        return [shims_pb2.DESCRIPTOR.services_by_name["ShimService"].full_name]

    async def ListShims(self, request: Any, context: Any) -> shims_pb2.ListShimsResponse:
        found = await self._shims.list(engine_scope_of(context))
        return shims_pb2.ListShimsResponse(shims=[_message(each) for each in found])

    async def GetShim(self, request: Any, context: Any) -> shims_pb2.GetShimResponse:
        found = await self._shims.get(engine_scope_of(context), request.container)
        return shims_pb2.GetShimResponse(shim=_message(found))

    async def ReadShimLog(self, request: Any, context: Any) -> None:
        async with aclosing(self._shims.log(engine_scope_of(context), request.container)) as pieces:
            async for piece in pieces:
                await context.write(shims_pb2.ReadShimLogResponse(data=piece))


def _message(view: ShimView) -> shims_pb2.Shim:
    info = view.info
    return shims_pb2.Shim(
        container=view.container.id,
        name=name_of(view.container),
        runtime=view.container.runtime,
        binary=info.binary,
        runtime_binary=info.runtime_binary,
        pid=info.pid,
        container_pid=info.task_pid,
        address=info.address,
        protocol=info.protocol,
        version=info.version,
        memory_bytes=info.memory,
        started_at=to_timestamp(info.started_at) if info.started_at else None,
        bundle=info.bundle,
        log=info.log,
        problem=info.problem,
    )
