"""The daemon's images."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence

from orlop import _image_messages, values
from orlop._connection import WORK_SECONDS, Connection
from orlop_protos.orlop.engine.v1 import images_pb2, images_pb2_grpc


class Images:
    """Bring images in, take them out, name them, remove them. Every method may raise ``OrlopError``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = images_pb2_grpc.ImageServiceStub(connection.channel)

    async def pull(
        self,
        reference: str,
        *,
        platform: values.Platform | None = None,
        snapshotter: str = "",
        credentials: values.Credentials | None = None,
        plain_http: bool = False,
        unpack: bool = True,
        discard_unpacked: bool | None = None,
        all_platforms: bool = False,
    ) -> AsyncGenerator[values.PullProgress, None]:
        """Fetch an image and unpack it: yields what it resolved to, progress as it happens, and the image
        last.

        ``discard_unpacked`` drops the blobs of layers once they are unpacked, None is what the daemon's
        config says. ``all_platforms`` fetches all that the reference points at, attestations too. Leaving
        the iteration stops the pull; blobs that are complete are not fetched again by the next one.
        """
        request = images_pb2.PullRequest(
            reference=reference,
            platform=_image_messages.platform_message(platform),
            snapshotter=snapshotter,
            credentials=_image_messages.credentials_message(credentials),
            plain_http=plain_http,
            no_unpack=not unpack,
            discard_unpacked=discard_unpacked,
            all_platforms=all_platforms,
        )
        async for response in self._connection.stream(self._stub.Pull, request):
            step = _image_messages.pull_progress(response)
            if step is not None:
                yield step

    async def push(
        self,
        name: str,
        target: str = "",
        *,
        platform: values.Platform | None = None,
        credentials: values.Credentials | None = None,
        plain_http: bool = False,
    ) -> AsyncGenerator[values.PushProgress, None]:
        """Push an image to where ``target`` points, its own name without: yields what the name will point at,
        progress as it happens, and that it is done last.

        ``platform`` pushes this one's manifest alone. Leaving the iteration stops the push; what has arrived
        is not sent again by the next one.
        """
        request = images_pb2.PushRequest(
            name=name,
            target=target,
            platform=_image_messages.platform_message(platform),
            credentials=_image_messages.credentials_message(credentials),
            plain_http=plain_http,
        )
        async for response in self._connection.stream(self._stub.Push, request):
            step = _image_messages.push_progress(response)
            if step is not None:
                yield step

    async def import_(
        self,
        archive: AsyncIterable[bytes],
        *,
        name: str = "",
        snapshotter: str = "",
        unpack: bool = True,
        discard_unpacked: bool | None = None,
        progress: Callable[[values.BlobProgress], None] | None = None,
    ) -> tuple[values.Image, ...]:
        """Store the images of an archive (OCI layout or `docker save`, plain or gzipped tar).

        ``name`` is for an image that the archive leaves unnamed. ``discard_unpacked`` drops the layers of
        what is unpacked, None is what the daemon's config says. ``progress`` is told of each layer's
        unpacking.
        """
        options = images_pb2.ImportOptions(
            name=name, snapshotter=snapshotter, no_unpack=not unpack, discard_unpacked=discard_unpacked
        )
        images: tuple[values.Image, ...] = ()
        responses = self._connection.upload_and_listen(
            self._stub.Import,
            images_pb2.ImportRequest(options=options),
            archive,
            lambda chunk: images_pb2.ImportRequest(chunk=chunk),
        )
        async for response in responses:
            if response.HasField("imported"):
                images = tuple(map(_image_messages.image, response.imported.images))
            elif progress is not None and response.HasField("progress"):
                progress(_image_messages.progress(response.progress))
        return images

    async def referrers(
        self,
        reference: str,
        artifact_type: str = "",
        *,
        credentials: values.Credentials | None = None,
        plain_http: bool = False,
    ) -> values.Referrers:
        """What a registry has that is about an image, as signatures: of one type or of any.

        Each can be pulled as REPOSITORY@DIGEST with ``unpack=False``.
        """
        request = images_pb2.ListReferrersRequest(
            reference=reference,
            artifact_type=artifact_type,
            credentials=_image_messages.credentials_message(credentials),
            plain_http=plain_http,
        )
        response = await self._connection.unary(self._stub.ListReferrers, request, timeout=WORK_SECONDS)
        return _image_messages.referrers(response)

    async def export(
        self,
        names: Sequence[str],
        *,
        platform: values.Platform | None = None,
        all_platforms: bool = False,
        skip_missing: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """Write images as one OCI layout tar, of one platform or of all that are here; yields its bytes.

        ``all_platforms`` wants all of the images to be here; ``skip_missing`` writes manifests, too, whose
        parts are not here.
        """
        request = images_pb2.ExportRequest(
            names=names,
            platform=_image_messages.platform_message(platform),
            all_platforms=all_platforms,
            skip_missing=skip_missing,
        )
        async for response in self._connection.stream(self._stub.Export, request):
            yield response.chunk

    async def build(self, build: values.Build, root: AsyncIterable[bytes]) -> values.Image:
        """Make an image of one layer out of a tar stream of its root filesystem. Same tree, same digest."""
        options = images_pb2.BuildOptions(
            name=build.name,
            config=_image_messages.image_config_message(build.config),
            platform=_image_messages.platform_message(build.platform),
        )
        response = await self._connection.upload(
            self._stub.Build,
            images_pb2.BuildRequest(options=options),
            root,
            lambda chunk: images_pb2.BuildRequest(chunk=chunk),
        )
        return _image_messages.image(response.image)

    async def list(self, filters: Iterable[str] = ()) -> tuple[values.Image, ...]:
        """All images, or those that any of the containerd filters matches, in order of name."""
        found: list[values.Image] = []
        token = ""
        while True:
            request = images_pb2.ListImagesRequest(filters=filters, page_token=token)
            response = await self._connection.unary(self._stub.ListImages, request)
            found.extend(map(_image_messages.image, response.images))
            token = response.next_page_token
            if not token:
                return tuple(found)

    async def get(self, name: str) -> values.ImageDetails:
        """One image with its configuration. ``name`` may be a digest or a unique prefix of one."""
        response = await self._connection.unary(self._stub.GetImage, images_pb2.GetImageRequest(name=name))
        config = _image_messages.image_config(response.config) if response.HasField("config") else None
        return values.ImageDetails(_image_messages.image(response.image), config)

    async def tag(self, source: str, target: str, *, namespace: str = "") -> values.Image:
        """Give an image one more name; a name that is taken moves.

        ``namespace`` is where to give it, the client's own without: what the image is made of is shared then.
        """
        request = images_pb2.TagRequest(source=source, target=target, namespace=namespace)
        return _image_messages.image((await self._connection.unary(self._stub.Tag, request)).image)

    async def remove(self, name: str, *, force: bool = False) -> values.Removed:
        """Remove a name, with ``force`` though containers use the image."""
        request = images_pb2.RemoveImageRequest(name=name, force=force)
        response = await self._connection.unary(self._stub.RemoveImage, request, timeout=WORK_SECONDS)
        return values.Removed(response.name, tuple(response.deleted))
