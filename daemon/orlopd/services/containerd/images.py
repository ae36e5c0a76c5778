"""containerd.services.images.v1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf import empty_pb2

from orlop_protos.containerd.services.images.v1 import images_pb2, images_pb2_grpc
from orlopd.core.core import Core
from orlopd.core.scope import Scope
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Image
from orlopd.services.convert import (
    fill_descriptor,
    fill_labels,
    fill_timestamp,
    from_descriptor,
    from_timestamp,
    paths_of,
)
from orlopd.services.lists import join
from orlopd.services.scope import scope_of


class ImagesService(images_pb2_grpc.ImagesServicer):
    """Names content."""

    def __init__(self, core: Core) -> None:
        self._images = core.images

    def register(self, server: Any) -> Sequence[str]:
        images_pb2_grpc.add_ImagesServicer_to_server(self, server)
        return [images_pb2.DESCRIPTOR.services_by_name["Images"].full_name]

    async def Get(self, request: Any, context: Any) -> images_pb2.GetImageResponse:
        image = await self._images.get(scope_of(context), request.name)
        return images_pb2.GetImageResponse(image=_message(image))

    async def List(self, request: Any, context: Any) -> Any:
        return await join(self._pages(scope_of(context), list(request.filters)))

    async def _pages(
        self, scope: Scope, filters: Sequence[str]
    ) -> AsyncIterator[images_pb2.ListImagesResponse]:
        async for images in self._images.pages(scope, filters):
            page = images_pb2.ListImagesResponse()
            for image in images:
                _fill(page.images.add(), image)
            yield page

    async def Create(self, request: Any, context: Any) -> images_pb2.CreateImageResponse:
        image = await self._images.create(scope_of(context), _value(request), at=_epoch(request))
        return images_pb2.CreateImageResponse(image=_message(image))

    async def Update(self, request: Any, context: Any) -> images_pb2.UpdateImageResponse:
        image = await self._images.update(
            scope_of(context), _value(request), paths_of(request), at=_epoch(request)
        )
        return images_pb2.UpdateImageResponse(image=_message(image))

    async def Delete(self, request: Any, context: Any) -> empty_pb2.Empty:
        digest = request.target.digest if request.HasField("target") else ""
        await self._images.delete(scope_of(context), request.name, sync=request.sync, digest=digest)
        return empty_pb2.Empty()


def _value(request: Any) -> Image:
    image = request.image
    if not image.name:
        raise InvalidArgument("Image.Name required: invalid argument")
    return Image(image.name, from_descriptor(image.target), dict(image.labels))


def _epoch(request: Any) -> Any:
    return from_timestamp(request.source_date_epoch) if request.HasField("source_date_epoch") else None


def _message(image: Image) -> images_pb2.Image:
    message = images_pb2.Image()
    _fill(message, image)
    return message


def _fill(message: images_pb2.Image, image: Image) -> None:
    message.name = image.name
    if image.labels:
        fill_labels(message.labels, image.labels)
    fill_descriptor(message.target, image.target)
    fill_timestamp(message.created_at, image.created_at)
    fill_timestamp(message.updated_at, image.updated_at)
