"""Shims: the processes that look after containers."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from orlop import _settings, values
from orlop._connection import Connection
from orlop_protos.orlop.engine.v1 import shims_pb2, shims_pb2_grpc


class Shims:
    """Looks at shims. Every method may raise ``OrlopError``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = shims_pb2_grpc.ShimServiceStub(connection.channel)

    async def list(self) -> tuple[values.Shim, ...]:
        """The shims of the namespace's containers that have one."""
        response = await self._connection.unary(self._stub.ListShims, shims_pb2.ListShimsRequest())
        return tuple(map(_settings.shim, response.shims))

    async def get(self, container: str) -> values.Shim:
        """The shim of one container."""
        request = shims_pb2.GetShimRequest(container=container)
        return _settings.shim((await self._connection.unary(self._stub.GetShim, request)).shim)

    async def log(self, container: str) -> AsyncGenerator[bytes, None]:
        """What the shim of a container has logged, in pieces; not what the container has."""
        request = shims_pb2.ReadShimLogRequest(container=container)
        async for response in self._connection.stream(self._stub.ReadShimLog, request):
            yield response.data
