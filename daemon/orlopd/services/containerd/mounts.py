"""containerd.services.mounts.v1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf import empty_pb2

from orlop_protos.containerd.services.mounts.v1 import mounts_pb2, mounts_pb2_grpc
from orlop_protos.containerd.types import mount_pb2
from orlopd.core.core import Core
from orlopd.core.mounts import Activation
from orlopd.services.convert import from_mounts, paths_of, to_mounts, to_timestamp
from orlopd.services.scope import scope_of


class MountsService(mounts_pb2_grpc.MountsServicer):
    """Mounts that the daemon performs and keeps for clients."""

    def __init__(self, core: Core) -> None:
        self._mounts = core.mounts

    def register(self, server: Any) -> Sequence[str]:
        mounts_pb2_grpc.add_MountsServicer_to_server(self, server)
        return [mounts_pb2.DESCRIPTOR.services_by_name["Mounts"].full_name]

    async def Activate(self, request: Any, context: Any) -> mounts_pb2.ActivateResponse:
        info = await self._mounts.activate(
            scope_of(context),
            request.name,
            from_mounts(request.mounts),
            dict(request.labels),
            temporary=request.temporary,
        )
        return mounts_pb2.ActivateResponse(info=_message(info))

    async def Deactivate(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self._mounts.deactivate(scope_of(context), request.name)
        return empty_pb2.Empty()

    async def Info(self, request: Any, context: Any) -> mounts_pb2.InfoResponse:
        return mounts_pb2.InfoResponse(
            info=_message(await self._mounts.info(scope_of(context), request.name))
        )

    async def Update(self, request: Any, context: Any) -> mounts_pb2.UpdateResponse:
        wanted = Activation(request.info.name, labels=dict(request.info.labels))
        info = await self._mounts.update(scope_of(context), wanted, paths_of(request))
        return mounts_pb2.UpdateResponse(info=_message(info))

    async def List(self, request: Any, context: Any) -> AsyncIterator[mounts_pb2.ListMessage]:
        async for info in self._mounts.walk(scope_of(context), list(request.filters)):
            yield mounts_pb2.ListMessage(info=_message(info))


def _message(info: Activation) -> mount_pb2.ActivationInfo:
    return mount_pb2.ActivationInfo(
        name=info.name,
        active=[
            mount_pb2.ActiveMount(
                mount=to_mounts([each.mount])[0],
                mounted_at=to_timestamp(each.mounted_at),
                mount_point=each.point,
                data=each.data,
            )
            for each in info.active
        ],
        system=to_mounts(info.system),
        labels=dict(info.labels),
    )
