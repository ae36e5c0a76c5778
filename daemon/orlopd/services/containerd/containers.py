"""containerd.services.containers.v1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf import empty_pb2

from orlop_protos.containerd.services.containers.v1 import containers_pb2, containers_pb2_grpc
from orlopd.core.core import Core
from orlopd.core.scope import Scope
from orlopd.plugin.values import Container
from orlopd.services.convert import fill_any, fill_labels, fill_timestamp, from_any, paths_of
from orlopd.services.lists import join
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

    async def List(self, request: Any, context: Any) -> Any:
        return await join(self._pages(scope_of(context), list(request.filters)))

    async def _pages(
        self, scope: Scope, filters: Sequence[str]
    ) -> AsyncIterator[containers_pb2.ListContainersResponse]:
        async for containers in self._containers.pages(scope, filters):
            page = containers_pb2.ListContainersResponse()
            for container in containers:
                _fill(page.containers.add(), container)
            yield page

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
    message = containers_pb2.Container()
    _fill(message, container)
    return message


def _fill(message: containers_pb2.Container, container: Container) -> None:
    message.id = container.id
    if container.labels:
        fill_labels(message.labels, container.labels)
    message.image = container.image
    message.runtime.name = container.runtime
    if container.runtime_options is not None:
        fill_any(message.runtime.options, container.runtime_options)
    if container.spec is not None:
        fill_any(message.spec, container.spec)
    message.snapshotter = container.snapshotter
    message.snapshot_key = container.snapshot_key
    fill_timestamp(message.created_at, container.created_at)
    fill_timestamp(message.updated_at, container.updated_at)
    for key, each in container.extensions.items():
        fill_any(message.extensions[key], each)
    message.sandbox = container.sandbox
