"""Calls to a foreign shim's task service, whichever protocol it speaks."""

from __future__ import annotations

from typing import Any, Protocol

from google.protobuf.message_factory import GetMessageClass

from orlop_protos.containerd.task.v3 import shim_pb2
from orlopd.plugin.errors import Unavailable

from ..oci.client import GrpcClient
from ..ttrpc import TtrpcClient
from .program import Endpoint

_METHODS = {
    method.name: (GetMessageClass(method.input_type), GetMessageClass(method.output_type))
    for method in shim_pb2.DESCRIPTOR.services_by_name["Task"].methods
}
_NAMESPACE = "containerd-namespace-ttrpc"


class Calls(Protocol):
    """A connection to a shim. ``protocol`` is ``ttrpc`` or ``grpc``."""

    protocol: str

    async def call(self, method: str, request: Any, deadline: float | None) -> Any:
        """The reply. :raises OrlopError: the shim's, or Unavailable where it cannot be reached"""
        ...

    async def closed(self) -> None:
        """Return when the shim is gone."""
        ...

    async def close(self) -> None: ...


async def connect(endpoint: Endpoint, namespace: str, deadline: float) -> Calls:
    """Connect to a shim within ``deadline`` seconds. :raises Unavailable: nobody answers there"""
    if endpoint.protocol == "ttrpc":
        client = await TtrpcClient.connect(endpoint.address, deadline)
        return _Ttrpc(client, f"containerd.task.v{endpoint.version}.Task", namespace)
    return await _Grpc.connect(endpoint, deadline)


class _Ttrpc:
    protocol = "ttrpc"

    def __init__(self, client: TtrpcClient, service: str, namespace: str) -> None:
        self._client = client
        self._service = service
        self._metadata = {_NAMESPACE: namespace}
        self.closed = client.closed
        self.close = client.close

    async def call(self, method: str, request: Any, deadline: float | None) -> Any:
        _, reply = _METHODS[method]
        return await self._client.call(
            self._service, method, request, reply, deadline=deadline, metadata=self._metadata
        )


class _Grpc:
    protocol = "grpc"

    def __init__(self, client: GrpcClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls, endpoint: Endpoint, deadline: float) -> _Grpc:
        if endpoint.version != 3:
            raise Unavailable(f"a shim that serves task version {endpoint.version} by gRPC is not understood")
        client = GrpcClient(endpoint.address)
        await client.ready(deadline)
        return cls(client)

    async def call(self, method: str, request: Any, deadline: float | None) -> Any:
        reply, _ = await self._client.ask(method, request, deadline)
        return reply

    async def closed(self) -> None:
        await self._client.lost()

    async def close(self) -> None:
        await self._client.close()
