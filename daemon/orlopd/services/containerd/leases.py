"""containerd.services.leases.v1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import empty_pb2

from orlop_protos.containerd.services.leases.v1 import leases_pb2, leases_pb2_grpc
from orlopd.core.core import Core
from orlopd.core.leases import Lease, Resource
from orlopd.services.convert import to_timestamp
from orlopd.services.scope import scope_of


class LeasesService(leases_pb2_grpc.LeasesServicer):
    """Keeps new objects from garbage collection."""

    def __init__(self, core: Core) -> None:
        self._leases = core.leases

    def register(self, server: Any) -> Sequence[str]:
        leases_pb2_grpc.add_LeasesServicer_to_server(self, server)
        return [leases_pb2.DESCRIPTOR.services_by_name["Leases"].full_name]

    async def Create(self, request: Any, context: Any) -> leases_pb2.CreateResponse:
        lease = await self._leases.create(scope_of(context), request.id, dict(request.labels))
        return leases_pb2.CreateResponse(lease=_message(lease))

    async def Delete(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self._leases.delete(scope_of(context), request.id, sync=request.sync)
        return empty_pb2.Empty()

    async def List(self, request: Any, context: Any) -> leases_pb2.ListResponse:
        leases = await self._leases.list(scope_of(context), list(request.filters))
        return leases_pb2.ListResponse(leases=[_message(each) for each in leases])

    async def AddResource(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self._leases.add_resource(scope_of(context), request.id, _resource(request))
        return empty_pb2.Empty()

    async def DeleteResource(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self._leases.delete_resource(scope_of(context), request.id, _resource(request))
        return empty_pb2.Empty()

    async def ListResources(self, request: Any, context: Any) -> leases_pb2.ListResourcesResponse:
        resources = await self._leases.list_resources(scope_of(context), request.id)
        return leases_pb2.ListResourcesResponse(
            resources=[leases_pb2.Resource(id=each.id, type=each.type) for each in resources]
        )


def _resource(request: Any) -> Resource:
    return Resource(request.resource.type, request.resource.id)


def _message(lease: Lease) -> leases_pb2.Lease:
    return leases_pb2.Lease(id=lease.id, created_at=to_timestamp(lease.created_at), labels=dict(lease.labels))
