"""orlop.engine.v1.ImageService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import anyio

from orlop_protos.orlop.engine.v1 import images_pb2, images_pb2_grpc
from orlopd.core.core import Core
from orlopd.core.engine import Engine
from orlopd.core.export import ExportOptions
from orlopd.core.filters import parse
from orlopd.core.flow import task_group
from orlopd.core.identifiers import check_namespace
from orlopd.core.progress import PullEvent, Resolved
from orlopd.core.pull import store_image
from orlopd.core.references import parse_reference
from orlopd.core.scope import Scope
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Image
from orlopd.services.scope import engine_scope_of

from . import choices, image_messages, pages, streams
from .progress import Relay

_MOST_DESCRIBED_AT_ONCE = 8


# Streaming methods are coroutines that write; the stubs know generators alone.
_Base: Any = images_pb2_grpc.ImageServiceServicer


class ImageService(_Base):
    """Images for thin clients."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._engine: Engine = core.engine

    def register(self, server: Any) -> Sequence[str]:
        images_pb2_grpc.add_ImageServiceServicer_to_server(self, server)
        return [images_pb2.DESCRIPTOR.services_by_name["ImageService"].full_name]

    async def Pull(self, request: Any, context: Any) -> None:
        scope = engine_scope_of(context)

        async def send(event: PullEvent) -> None:
            if isinstance(event, Resolved):
                await context.write(images_pb2.PullResponse(resolved=_resolved(event)))
            else:
                await context.write(images_pb2.PullResponse(progress=image_messages.blob_progress(event)))

        relay = Relay(send)
        async with task_group() as group:
            group.start_soon(relay.run)
            image = await self._core.puller.pull(
                scope,
                request.reference,
                platform=image_messages.platform(request.platform) if request.HasField("platform") else None,
                snapshotter=request.snapshotter or await self._engine.context.default_snapshotter(scope),
                options=choices.resolve_options(request),
                unpack=not request.no_unpack,
                also=None if request.all_platforms else (),
                discard=request.discard_unpacked if request.HasField("discard_unpacked") else None,
                report=relay.report,
            )
            await relay.finish()
        await context.write(images_pb2.PullResponse(image=await self._message(scope, image)))

    async def Push(self, request: Any, context: Any) -> None:
        scope = engine_scope_of(context)
        found = await self._engine.finder.image(scope, request.name)

        async def send(event: PullEvent) -> None:
            if isinstance(event, Resolved):
                await context.write(images_pb2.PushResponse(resolved=_resolved(event)))
            else:
                await context.write(images_pb2.PushResponse(progress=image_messages.blob_progress(event)))

        relay = Relay(send)
        async with task_group() as group:
            group.start_soon(relay.run)
            pushed = await self._core.pusher.push(
                scope,
                found,
                request.target,
                platforms=[each for each in (image_messages.platform(request.platform),) if each],
                options=choices.resolve_options(request),
                report=relay.report,
            )
            await relay.finish()
        await context.write(images_pb2.PushResponse(pushed=_resolved(pushed)))

    async def Import(self, requests: AsyncIterator[Any], context: Any) -> None:
        scope = engine_scope_of(context)

        async def send(event: PullEvent) -> None:
            if not isinstance(event, Resolved):
                await context.write(images_pb2.ImportResponse(progress=image_messages.blob_progress(event)))

        relay = Relay(send)
        async with streams.read_out(requests):
            options = await streams.first(requests)
            async with task_group() as group, aclosing(streams.chunks(requests)) as pieces:
                group.start_soon(relay.run)
                images = await self._core.archiver.import_archive(
                    scope,
                    pieces,
                    options.name,
                    snapshotter=options.snapshotter or await self._engine.context.default_snapshotter(scope),
                    unpack=not options.no_unpack,
                    discard=options.discard_unpacked if options.HasField("discard_unpacked") else None,
                    report=relay.report,
                )
                await relay.finish()
        imported = images_pb2.Imported(images=[await self._message(scope, image) for image in images])
        await context.write(images_pb2.ImportResponse(imported=imported))

    async def Export(self, request: Any, context: Any) -> None:
        scope = engine_scope_of(context)
        if not request.names:
            raise InvalidArgument("no image was named")
        names = [(await self._engine.finder.image(scope, name)).name for name in request.names]
        platform = image_messages.platform(request.platform) if request.HasField("platform") else None
        if sum((platform is not None, request.all_platforms, request.skip_missing)) > 1:
            raise InvalidArgument("platform, all_platforms and skip_missing exclude each other")
        options = ExportOptions(platform, complete=request.all_platforms, skip_missing=request.skip_missing)
        async with aclosing(self._core.archiver.export_archive(scope, names, options=options)) as pieces:
            async for piece in pieces:
                for start in range(0, len(piece), streams.MOST_CHUNK):
                    chunk = piece[start : start + streams.MOST_CHUNK]
                    await context.write(images_pb2.ExportResponse(chunk=bytes(chunk)))

    async def ListReferrers(self, request: Any, context: Any) -> images_pb2.ListReferrersResponse:
        found = await self._core.referrers.find(
            request.reference, request.artifact_type, choices.resolve_options(request)
        )
        return images_pb2.ListReferrersResponse(
            subject=found.subject, referrers=[image_messages.referrer(each) for each in found.listed]
        )

    async def Build(self, requests: AsyncIterator[Any], context: Any) -> images_pb2.BuildResponse:
        scope = engine_scope_of(context)
        async with streams.read_out(requests):
            options = await streams.first(requests)
            async with aclosing(streams.chunks(requests)) as pieces:
                image = await self._core.builder.build_image(
                    scope,
                    pieces,
                    options.name,
                    image_messages.image_config(options.config),
                    image_messages.platform(options.platform) if options.HasField("platform") else None,
                )
        return images_pb2.BuildResponse(image=await self._message(scope, image))

    async def ListImages(self, request: Any, context: Any) -> images_pb2.ListImagesResponse:
        scope = engine_scope_of(context)
        parse(request.filters)
        images = await self._core.images.list(scope, list(request.filters))
        chosen, token = pages.page(images, lambda image: [image.name], request.page_size, request.page_token)
        messages: dict[str, images_pb2.Image] = {}
        limit = anyio.CapacityLimiter(_MOST_DESCRIBED_AT_ONCE)

        async def describe(image: Image) -> None:
            async with limit:
                messages[image.name] = await self._message(scope, image)

        async with task_group() as group:
            for image in chosen:
                group.start_soon(describe, image)
        kind = images_pb2.Image
        return images_pb2.ListImagesResponse(
            images=[pages.masked(messages[image.name], request.read_mask, kind) for image in chosen],
            next_page_token=token,
        )

    async def GetImage(self, request: Any, context: Any) -> images_pb2.GetImageResponse:
        scope = engine_scope_of(context)
        image = await self._engine.finder.image(scope, request.name)
        config = await self._engine.inventory.config(scope, image)
        return images_pb2.GetImageResponse(
            image=await self._message(scope, image),
            config=image_messages.image_config_message(config) if config else None,
        )

    async def Tag(self, request: Any, context: Any) -> images_pb2.TagResponse:
        scope = engine_scope_of(context)
        reference = parse_reference(request.target)
        if reference.digest:
            raise InvalidArgument(f"a name with a digest cannot be given: {request.target[:256]!r}")
        source = await self._engine.finder.image(scope, request.source)
        if request.namespace and request.namespace != scope.namespace:
            other = Scope(check_namespace(request.namespace))
            image = await self._core.sharer.share(scope, source, other, reference.name)
            return images_pb2.TagResponse(image=await self._message(other, image))
        image = await store_image(self._core.images, scope, reference.name, source.target, source.labels)
        return images_pb2.TagResponse(image=await self._message(scope, image))

    async def RemoveImage(self, request: Any, context: Any) -> images_pb2.RemoveImageResponse:
        scope = engine_scope_of(context)
        name, deleted = await self._engine.inventory.remove_image(scope, request.name, force=request.force)
        return images_pb2.RemoveImageResponse(name=name, deleted=deleted)

    async def _message(self, scope: Scope, image: Image) -> images_pb2.Image:
        return image_messages.image(image, await self._engine.inventory.describe(scope, image))


def _resolved(event: Resolved) -> images_pb2.PullResolved:
    return images_pb2.PullResolved(name=event.name, digest=event.digest, media_type=event.media_type)
