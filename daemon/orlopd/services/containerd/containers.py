"""containerd.services.containers.v1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf import empty_pb2

from orlop_protos.containerd.services.containers.v1 import containers_pb2, containers_pb2_grpc
from orlopd.core.core import Core
from orlopd.plugin.values import Container
from orlopd.services.convert import from_any, paths_of, to_any, to_timestamp
from orlopd.services.scope import scope_of


class ContainersService(containers_pb2_grpc.ContainersServicer):
    """The records of containers."""

    def __init__(self, core: Core) -> None:
        self._containers = core.containers

    def register(self, server: Any) -> Sequence[str]:
        containers_pb2_grpc.add_ContainersServicer_to_server(self, server)
        return [containers_pb2.DESCRIPTOR.services_by_name["Containers"].full_name]

    async def Get(self, request: Any, context: Any) -> containers_pb2.GetContainerResponse:
        container = await self._containers.get(scope_of(context), request.id)
        return containers_pb2.GetContainerResponse(container=_message(container))

    async def List(self, request: Any, context: Any) -> containers_pb2.ListContainersResponse:
        response = containers_pb2.ListContainersResponse()
        async for container in self._containers.walk(scope_of(context), list(request.filters)):
            response.containers.append(_message(container))
        return response

    async def ListStream(
        self, request: Any, context: Any
    ) -> AsyncIterator[containers_pb2.ListContainerMessage]:
        async for container in self._containers.walk(scope_of(context), list(request.filters)):
            yield containers_pb2.ListContainerMessage(container=_message(container))

    async def Create(self, request: Any, context: Any) -> containers_pb2.CreateContainerResponse:
        container = await self._containers.create(scope_of(context), _value(request.container))
        return containers_pb2.CreateContainerResponse(container=_message(container))

    async def Update(self, request: Any, context: Any) -> containers_pb2.UpdateContainerResponse:
        container = await self._containers.update(
            scope_of(context), _value(request.container), paths_of(request)
        )
        return containers_pb2.UpdateContainerResponse(container=_message(container))

    async def Delete(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self._containers.delete(scope_of(context), request.id)
        return empty_pb2.Empty()


def _value(message: containers_pb2.Container) -> Container:
    runtime = message.runtime
    return Container(
        id=message.id,
        runtime=runtime.name,
        image=message.image,
        spec=from_any(message.spec) if message.HasField("spec") else None,
        runtime_options=from_any(runtime.options) if runtime.HasField("options") else None,
        snapshotter=message.snapshotter,
        snapshot_key=message.snapshot_key,
        sandbox=message.sandbox,
        labels=dict(message.labels),
        extensions={key: from_any(each) for key, each in message.extensions.items()},
    )


def _message(container: Container) -> containers_pb2.Container:
    return containers_pb2.Container(
        id=container.id,
        labels=dict(container.labels),
        image=container.image,
        runtime=containers_pb2.Container.Runtime(
            name=container.runtime, options=to_any(container.runtime_options)
        ),
        spec=to_any(container.spec),
        snapshotter=container.snapshotter,
        snapshot_key=container.snapshot_key,
        created_at=to_timestamp(container.created_at),
        updated_at=to_timestamp(container.updated_at),
        extensions={key: to_any(each) for key, each in container.extensions.items()},
        sandbox=container.sandbox,
    )
