"""What there is of images and disk, and what can go."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from orlopd.core import graph, manifests, platforms
from orlopd.core.content import Content
from orlopd.core.manifests import ImageConfig, Manifest
from orlopd.core.scope import Scope
from orlopd.core.unpack import SNAPSHOT_LABEL
from orlopd.core.upkeep import Preview
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError
from orlopd.plugin.values import Descriptor, Image, Platform, Usage

from .context import Context
from .find import Finder
from .lifecycle import Lifecycle
from .model import State
from .record import name_of

_MOST_SHOWN = 4


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What is here of an image: bytes for this machine's platform, and the platforms that are whole."""

    size: int = 0
    platforms: tuple[Platform, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotterUsage:
    """What a snapshotter's snapshots take, and the bytes of them that a prune of everything unused frees."""

    snapshotter: str
    usage: Usage
    reclaimable_all: int


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """What a namespace takes.

    ``reclaimable`` is the content that a collection would free, ``reclaimable_all`` the content that goes
    with stopped containers and unused images too.
    """

    content: Usage
    snapshots: tuple[SnapshotterUsage, ...]
    reclaimable: int
    reclaimable_all: int


class Inventory:
    """Knows what images and snapshots take, and removes what nothing needs."""

    def __init__(self, context: Context, content: Content, finder: Finder, lifecycle: Lifecycle) -> None:
        self._context = context
        self._content = content
        self._finder = finder
        self._lifecycle = lifecycle

    async def describe(self, scope: Scope, image: Image) -> ImageInfo:
        """What is here of an image; nothing where its content is malformed or gone."""
        with suppress(OrlopError):
            return await self._describe(scope, image.target)
        return ImageInfo()

    async def config(self, scope: Scope, image: Image) -> ImageConfig | None:
        """An image's configuration for this machine; None for an artifact or another platform."""
        try:
            return (await self._context.stored.image_config(scope, image.target))[0]
        except (NotFound, InvalidArgument):
            return None

    async def remove_image(
        self, scope: Scope, reference: str, *, force: bool = False
    ) -> tuple[str, Sequence[str]]:
        """Remove a name, and what nothing else needs. The name, and the digests that are gone.

        :raises NotFound: there is no such image
        :raises FailedPrecondition: a container uses it and ``force`` is not set
        """
        image = await self._finder.image(scope, reference)
        if not force:
            users = [each for each in await self._context.containers.list(scope) if each.image == image.name]
            if users:
                names = ", ".join(name_of(each) for each in users[:_MOST_SHOWN])
                raise FailedPrecondition(
                    f"image {image.name} is used by {len(users)} container(s): {names}",
                    reason="IMAGE_IN_USE",
                    resource=f"image {image.name}",
                    hint="remove them first, or the name alone with --force: they keep what they need",
                )
        before = await self._digests(scope)
        await self._context.images.delete(scope, image.name, sync=True)
        after = await self._digests(scope)
        return image.name, sorted(before.keys() - after.keys())

    async def disk_usage(self, scope: Scope) -> DiskUsage:
        """What the namespace's content and snapshots take."""
        blobs = await self._digests(scope)
        upkeep = self._context.upkeep
        idle = await upkeep.preview(scope)
        stopped = await self._stopped(scope)
        unused = await upkeep.preview(
            scope, containers=stopped, images=await self._unused(scope, without=stopped)
        )
        snapshots: list[SnapshotterUsage] = []
        for name in self._context.snapshots.names:
            snapshotter = self._context.snapshots.for_name(name)
            total = Usage()
            async for info in snapshotter.walk(scope):
                with suppress(NotFound):
                    total += Usage(1, (await snapshotter.usage(scope, info.name)).size)
            snapshots.append(SnapshotterUsage(name, total, unused.bytes_of(graph.SNAPSHOT, name)))
        return DiskUsage(
            Usage(len(blobs), sum(blobs.values())),
            tuple(snapshots),
            idle.bytes_of(graph.CONTENT),
            unused.bytes_of(graph.CONTENT),
        )

    async def prune(
        self, scope: Scope, *, containers: bool = False, images: bool = False, dry_run: bool = False
    ) -> Preview:
        """Remove stopped containers and unused images if asked, and collect what nothing needs.

        What went, or with ``dry_run`` would go.
        """
        stopped = await self._stopped(scope) if containers else []
        unused = await self._unused(scope, without=stopped) if images else []
        going = await self._context.upkeep.preview(scope, containers=stopped, images=unused)
        if dry_run:
            return going
        for container in stopped:
            with suppress(NotFound, FailedPrecondition):  # another client was faster, or started it
                await self._lifecycle.remove(scope, container)
        if images:
            # Asked again: a container that was started meanwhile keeps its image.
            for name in await self._unused(scope):
                with suppress(NotFound):
                    await self._context.images.delete(scope, name)
        await self._context.gc.collect()
        left = await self._context.upkeep.left(scope, [each.node for each in going.objects])
        return Preview([each for each in going.objects if each.node not in left], going.more)

    async def _stopped(self, scope: Scope) -> list[str]:
        return [view.id for view in await self._finder.views(scope, states=(State.STOPPED,))]

    async def _unused(self, scope: Scope, *, without: Sequence[str] = ()) -> list[str]:
        """The images that no container uses, some containers apart."""
        containers = await self._context.containers.list(scope)
        used = {each.image for each in containers if each.id not in without}
        return [image.name for image in await self._context.images.list(scope) if image.name not in used]

    async def _describe(self, scope: Scope, target: Descriptor) -> ImageInfo:
        size = 0
        with suppress(NotFound):
            descriptor, manifest = await self._context.stored.find_manifest(scope, target)
            size = descriptor.size + sum(each.size for each in (manifest.config, *manifest.layers))
        return ImageInfo(size, tuple(await self._platforms(scope, target, 0)))

    async def _platforms(self, scope: Scope, target: Descriptor, depth: int) -> list[Platform]:
        data = await self._content.read_blob(scope, target.digest, manifests.MAX_DOCUMENT)
        if target.media_type in manifests.MANIFEST_TYPES:
            manifest = manifests.parse_manifest(target, data)
            whole = await self._is_whole(scope, manifest)
            platform = target.platform or (await self._platform(scope, manifest) if whole else None)
            return [platforms.normalize(platform)] if whole and platform else []
        found: list[Platform] = []
        if depth < manifests.MAX_DEPTH:
            for child in manifests.parse_index(target, data).manifests:
                with suppress(NotFound, InvalidArgument):  # a child that was not fetched
                    found += await self._platforms(scope, child, depth + 1)
        return list(dict.fromkeys(found))

    async def _platform(self, scope: Scope, manifest: Manifest) -> Platform | None:
        if not manifest.is_image:
            return None
        data = await self._content.read_blob(scope, manifest.config.digest, manifests.MAX_DOCUMENT)
        return manifests.parse_config(manifest.config, data).platform

    async def _is_whole(self, scope: Scope, manifest: Manifest) -> bool:
        """Whether all of a manifest is here, or its layers are unpacked and their blobs not kept."""
        with suppress(NotFound):
            labels = (await self._content.info(scope, manifest.config.digest)).labels
            if any(key.startswith(SNAPSHOT_LABEL) for key in labels):
                return True
        for each in (manifest.config, *manifest.layers):
            try:
                await self._content.info(scope, each.digest)
            except NotFound:
                return False
        return True

    async def _digests(self, scope: Scope) -> dict[str, int]:
        return {info.digest: info.size async for info in self._content.walk(scope)}
