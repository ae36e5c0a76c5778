"""orlop.engine.v1.VolumeService."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orlop_protos.orlop.engine.v1 import volumes_pb2, volumes_pb2_grpc
from orlopd.core.core import Core
from orlopd.services.scope import engine_scope_of

_Base: Any = volumes_pb2_grpc.VolumeServiceServicer


class VolumeService(_Base):
    """Named volumes."""

    def __init__(self, core: Core) -> None:
        self._volumes = core.engine.volumes

    def register(self, server: Any) -> Sequence[str]:
        volumes_pb2_grpc.add_VolumeServiceServicer_to_server(self, server)
        return [volumes_pb2.DESCRIPTOR.services_by_name["VolumeService"].full_name]

    async def ListVolumes(self, request: Any, context: Any) -> volumes_pb2.ListVolumesResponse:
        found = await self._volumes.list(engine_scope_of(context))
        return volumes_pb2.ListVolumesResponse(
            volumes=[
                volumes_pb2.Volume(name=each.name, path=str(each.path), containers=each.containers)
                for each in found
            ]
        )

    async def RemoveVolume(self, request: Any, context: Any) -> volumes_pb2.RemoveVolumeResponse:
        await self._volumes.remove(engine_scope_of(context), request.name)
        return volumes_pb2.RemoveVolumeResponse()
