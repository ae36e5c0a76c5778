"""The pretended ImageService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from orlop_protos.orlop.engine.v1 import images_pb2 as i
from orlop_protos.orlop.engine.v1 import images_pb2_grpc
from tests.clients.engine.base import DIGEST, LAYERS, Base, Refusal, now


class Images(Base, images_pb2_grpc.ImageServiceServicer):
    async def Pull(self, request: i.PullRequest, context: Any) -> AsyncIterator[i.PullResponse]:
        self.keep(
            context,
            pull=request.reference,
            plain_http=request.plain_http,
            no_unpack=request.no_unpack,
            all_platforms=request.all_platforms,
            discard=request.discard_unpacked if request.HasField("discard_unpacked") else None,
            os_version=request.platform.os_version,
        )
        if request.reference == "missing":
            await self.refuse(
                context, Refusal(grpc.StatusCode.NOT_FOUND, "missing: no such image", "IMAGE_NOT_FOUND")
            )
        name = f"docker.io/library/{request.reference}:latest"
        yield i.PullResponse(resolved=i.PullResolved(name=name, digest=DIGEST, media_type="m"))
        async for progress in steps(request.reference):
            yield i.PullResponse(progress=progress)
        image = i.Image(name=name, digest=DIGEST, size=3_500_000, created_at=now(), updated_at=now())
        image.platforms.add(os="linux", architecture="amd64")
        self.world(context).images[request.reference] = image
        yield i.PullResponse(image=image)

    async def Push(self, request: i.PushRequest, context: Any) -> AsyncIterator[i.PushResponse]:
        self.keep(context, push=request.name, target=request.target, user=request.credentials.username)
        if request.name == "missing":
            await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, "missing: no such image"))
        named = i.PullResolved(name=request.target or request.name, digest=DIGEST, media_type="m")
        yield i.PushResponse(resolved=named)
        async for progress in steps(request.name):
            yield i.PushResponse(progress=progress)
        yield i.PushResponse(pushed=named)

    async def Import(self, request_iterator: Any, context: Any) -> AsyncIterator[i.ImportResponse]:
        options, data = await collect(request_iterator)
        discard = options.discard_unpacked if options.HasField("discard_unpacked") else None
        self.keep(context, imported=len(data), name=options.name, discard=discard)
        if data.startswith(b"bad"):
            await self.refuse(context, Refusal(grpc.StatusCode.INVALID_ARGUMENT, "the archive is truncated"))
        async for progress in steps(options.name or "from/archive:1"):
            yield i.ImportResponse(progress=progress)
        image = i.Image(name=options.name or "from/archive:1", digest=DIGEST)
        yield i.ImportResponse(imported=i.Imported(images=[image]))

    async def Export(self, request: i.ExportRequest, context: Any) -> AsyncIterator[i.ExportResponse]:
        self.keep(context, all_platforms=request.all_platforms, skip_missing=request.skip_missing)
        if "missing" in request.names:
            await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, "missing: no such image"))
        for name in request.names:
            yield i.ExportResponse(chunk=name.encode())

    async def ListReferrers(self, request: i.ListReferrersRequest, context: Any) -> i.ListReferrersResponse:
        self.keep(context, referrers=request.reference, type=request.artifact_type)
        one = i.Referrer(digest=DIGEST, media_type="m", size=3, artifact_type="a/b", annotations={"k": "v"})
        return i.ListReferrersResponse(subject=DIGEST, referrers=[one])

    async def Build(self, request_iterator: Any, context: Any) -> i.BuildResponse:
        options, data = await collect(request_iterator)
        kept = self.records / f"{self.namespace(context)}.tar"
        kept.write_bytes(data)
        config = options.config
        self.keep(
            context,
            build=options.name,
            entrypoint=list(config.entrypoint),
            cmd=list(config.cmd),
            env=list(config.env),
            labels=dict(config.labels),
        )
        return i.BuildResponse(image=i.Image(name=options.name, digest=DIGEST))

    async def ListImages(self, request: i.ListImagesRequest, context: Any) -> i.ListImagesResponse:
        """A page holds one image, so that paging is always tried."""
        images = sorted(self.world(context).images.values(), key=lambda image: image.name)
        at = int(request.page_token or 0)
        more = str(at + 1) if at + 1 < len(images) else ""
        return i.ListImagesResponse(images=images[at : at + 1], next_page_token=more)

    async def GetImage(self, request: i.GetImageRequest, context: Any) -> i.GetImageResponse:
        image = self.world(context).images.get(request.name)
        if image is None:
            await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, f"{request.name}: no such image"))
        return i.GetImageResponse(image=image, config=i.ImageConfig(cmd=["sh"]))

    async def Tag(self, request: i.TagRequest, context: Any) -> i.TagResponse:
        return i.TagResponse(image=i.Image(name=request.target, digest=DIGEST))

    async def RemoveImage(self, request: i.RemoveImageRequest, context: Any) -> i.RemoveImageResponse:
        if self.world(context).images.pop(request.name, None) is None:
            await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, f"{request.name}: no such image"))
        return i.RemoveImageResponse(name=request.name, deleted=[DIGEST])


async def steps(reference: str) -> AsyncIterator[i.BlobProgress]:
    yield i.BlobProgress(
        digest=DIGEST, kind=i.BLOB_KIND_MANIFEST, state=i.BLOB_STATE_FETCHED, current=9, total=9
    )
    for layer in LAYERS:
        yield i.BlobProgress(digest=layer, kind=i.BLOB_KIND_LAYER, state=i.BLOB_STATE_WAITING)
    for layer in LAYERS:
        for current in (0, 1 << 20, 2 << 20):
            yield blob(layer, i.BLOB_STATE_FETCHING, current)
        if reference == "slow":
            await asyncio.sleep(60)
        yield blob(layer, i.BLOB_STATE_FETCHED, 2 << 20)
    for layer in LAYERS:
        yield blob(layer, i.BLOB_STATE_UNPACKING, 0)
        yield blob(layer, i.BLOB_STATE_UNPACKED, 2 << 20)


def blob(layer: str, state: Any, current: int) -> i.BlobProgress:
    return i.BlobProgress(
        digest=layer, kind=i.BLOB_KIND_LAYER, state=state, current=current, total=2 << 20, rate=3 << 20
    )


async def collect(requests: Any) -> tuple[Any, bytes]:
    options, data = None, bytearray()
    async for request in requests:
        if request.WhichOneof("request") == "options":
            options = request.options
        else:
            data += request.chunk
    return options, bytes(data)
