"""Named volumes."""

from __future__ import annotations

from orlop import values
from orlop._connection import Connection
from orlop_protos.orlop.engine.v1 import volumes_pb2, volumes_pb2_grpc


class Volumes:
    """Looks at volumes and removes them; a mount that names one makes it. May raise ``OrlopError``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = volumes_pb2_grpc.VolumeServiceStub(connection.channel)

    async def list(self) -> tuple[values.Volume, ...]:
        """The namespace's volumes by name."""
        response = await self._connection.unary(self._stub.ListVolumes, volumes_pb2.ListVolumesRequest())
        return tuple(values.Volume(each.name, each.path, tuple(each.containers)) for each in response.volumes)

    async def remove(self, name: str) -> None:
        """Remove a volume with all that is in it; one that a container has is refused."""
        await self._connection.unary(self._stub.RemoveVolume, volumes_pb2.RemoveVolumeRequest(name=name))
