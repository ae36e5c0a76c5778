"""containerd.services.namespaces.v1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import empty_pb2

from orlop_protos.containerd.services.namespaces.v1 import namespace_pb2, namespace_pb2_grpc
from orlopd.core.core import Core
from orlopd.core.namespaces import Namespace
from orlopd.services.convert import paths_of
from orlopd.services.scope import scope_of


class NamespacesService(namespace_pb2_grpc.NamespacesServicer):
    """Makes, labels and removes namespaces."""

    def __init__(self, core: Core) -> None:
        self._namespaces = core.namespaces

    def register(self, server: Any) -> Sequence[str]:
        namespace_pb2_grpc.add_NamespacesServicer_to_server(self, server)
        return [namespace_pb2.DESCRIPTOR.services_by_name["Namespaces"].full_name]

    async def Get(self, request: Any, context: Any) -> namespace_pb2.GetNamespaceResponse:
        namespace = await self._namespaces.get(request.name)
        return namespace_pb2.GetNamespaceResponse(namespace=_message(namespace))

    async def List(self, request: Any, context: Any) -> namespace_pb2.ListNamespacesResponse:
        namespaces = await self._namespaces.list()
        return namespace_pb2.ListNamespacesResponse(namespaces=[_message(each) for each in namespaces])

    async def Create(self, request: Any, context: Any) -> namespace_pb2.CreateNamespaceResponse:
        wanted = request.namespace
        namespace = await self._namespaces.create(
            scope_of(context, default=wanted.name), wanted.name, dict(wanted.labels)
        )
        return namespace_pb2.CreateNamespaceResponse(namespace=_message(namespace))

    async def Update(self, request: Any, context: Any) -> namespace_pb2.UpdateNamespaceResponse:
        wanted = request.namespace
        namespace = await self._namespaces.update(
            scope_of(context, default=wanted.name), wanted.name, dict(wanted.labels), paths_of(request)
        )
        return namespace_pb2.UpdateNamespaceResponse(namespace=_message(namespace))

    async def Delete(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self._namespaces.delete(request.name)
        return empty_pb2.Empty()


def _message(namespace: Namespace) -> namespace_pb2.Namespace:
    return namespace_pb2.Namespace(name=namespace.name, labels=dict(namespace.labels))
