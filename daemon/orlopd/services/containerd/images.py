"""containerd.services.images.v1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import empty_pb2

from orlop_protos.containerd.services.images.v1 import images_pb2, images_pb2_grpc
from orlopd.core.core import Core
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Image
from orlopd.services.convert import from_descriptor, from_timestamp, paths_of, to_descriptor, to_timestamp
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

    async def List(self, request: Any, context: Any) -> images_pb2.ListImagesResponse:
        response = images_pb2.ListImagesResponse()
        async for image in self._images.walk(scope_of(context), list(request.filters)):
            response.images.append(_message(image))
        return response

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
    return images_pb2.Image(
        name=image.name,
        labels=dict(image.labels),
        target=to_descriptor(image.target),
        created_at=to_timestamp(image.created_at),
        updated_at=to_timestamp(image.updated_at),
    )
