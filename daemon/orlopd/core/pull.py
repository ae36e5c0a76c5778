"""Pull: from a reference to a named image, unpacked, as one operation under one lease."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress

import anyio
from anyio.abc import TaskGroup

from orlopd.plugin.errors import AlreadyExists, InvalidArgument, NotFound
from orlopd.plugin.resolver import ResolveOptions, Resolver, Source
from orlopd.plugin.values import Descriptor, Image, Labels, Platform

from . import manifests, platforms
from .content import Content
from .fetch import Coming, Fetcher, blob_kind
from .flow import task_group
from .images import Images
from .layers import Arrivals, Fetch, Passage, passage
from .leases import Leases, Resource
from .manifests import Manifest
from .parts import ImageChecks
from .progress import BlobKind, BlobReport, BlobState, Report, Resolved, silent
from .references import parse_reference
from .scope import Scope
from .unpack import Unpacker

CONCURRENCY = 4
Store = Callable[[Scope, Descriptor], Awaitable[Image]]
"""Gives names to what was pulled, in a scope whose lease still holds it."""
_SOURCE_LABEL = "containerd.io/distribution.source."
_DEFAULTS = ResolveOptions()


class Puller:
    """Pulls images.

    :param resolvers: asked in this order whether a reference is theirs
    :param concurrency: the most blobs one pull fetches at a time
    :param discard: what a pull that does not say does with the blobs of layers that it has unpacked
    """

    def __init__(
        self,
        content: Content,
        images: Images,
        unpacker: Unpacker,
        resolvers: Sequence[Resolver],
        leases: Leases,
        checks: ImageChecks,
        *,
        concurrency: int = CONCURRENCY,
        discard: bool = False,
    ) -> None:
        self._content = content
        self._images = images
        self._unpacker = unpacker
        self._resolvers = resolvers
        self._leases = leases
        self._checks = checks
        self._concurrency = concurrency
        self._discard = discard
        self._fetcher = Fetcher(content)

    async def pull(
        self,
        scope: Scope,
        reference: str,
        *,
        platform: Platform | None = None,
        snapshotter: str = "",
        options: ResolveOptions = _DEFAULTS,
        unpack: bool = True,
        discard: bool | None = None,
        also: Sequence[Platform] | None = (),
        store: Store | None = None,
        report: Report = silent,
    ) -> Image:
        """Fetch what ``reference`` points at for one platform, unpack it, name it.

        Content that is here is not fetched again. When this fails or is cancelled the name is as it
        was before; ingests stay to be resumed, everything else is left to the next collection.

        :param platform: this machine's by default
        :param snapshotter: the default one's when empty
        :param discard: do not keep a layer's blob once it is unpacked, unless another image needs it
        :param also: further platforms to fetch, not to unpack; None for everything below the reference
        :param store: names the target; by default it gets the reference's full name
        :param report: told first :class:`Resolved`, then each blob's progress
        :raises InvalidArgument: malformed reference or manifest, or no container image
        :raises NotFound: no such image, or none for this platform
        :raises DataLoss: what came does not match its digest
        :raises OrlopError: as the resolver and the unpacker have it
        """
        resolver = self._choose(reference)
        async with self._leases.hold(scope) as held, resolver.resolve(reference, options) as source:
            target = source.descriptor
            report(Resolved(source.name, target.digest, target.media_type))
            manifests.check_pullable(target, source.name)
            await self._checks.check_image(scope.namespace, source.name, target)
            # Held before it is here. Its labels, set before any child comes, keep what it points at.
            await self._leases.add_resource(held, held.lease, Resource("content", target.digest))
            fetching = _Pull(self._fetcher, held, source, report)
            if also is None and not unpack:
                await self._further(fetching, target, also)
                return await self._name(held, source.name, target, store)
            dropped = unpack and (self._discard if discard is None else discard)
            manifest = await fetching.find(target, platform or platforms.current(), layers=not dropped)
            if not unpack:
                await self._further(fetching, target, also)
                await self._layers(fetching, manifest)
                return await self._name(held, source.name, target, store)
            if not manifest.is_image:
                raise InvalidArgument(
                    f"{source.name} is an artifact of {manifest.config.media_type[:120]!r}, "
                    "not a container image",
                    reason="NOT_AN_IMAGE",
                    resource=f"image {source.name}",
                    hint="it can be fetched without unpacking",
                )
            await self._further(fetching, target, also, but=manifest.digest if dropped else "")
            await self._unpack(fetching, manifest, target, platform, snapshotter, dropped=dropped)
            for layer in manifest.layers:
                BlobReport(report, layer, BlobKind.LAYER).state(BlobState.UNPACKED)
            return await self._name(held, source.name, target, store)

    async def _name(self, scope: Scope, name: str, target: Descriptor, store: Store | None) -> Image:
        if store is not None:
            return await store(scope, target)
        return await store_image(self._images, scope, name, target)

    async def _further(
        self,
        fetching: _Pull,
        target: Descriptor,
        platforms: Sequence[Platform] | None,
        *,
        but: str = "",
    ) -> None:
        if platforms is None:
            await fetching.everything(target, anyio.CapacityLimiter(self._concurrency), but)
            return
        for platform in platforms:
            await self._layers(fetching, await fetching.find(target, platform))

    def _choose(self, reference: str) -> Resolver:
        for resolver in self._resolvers:
            if resolver.handles(reference):
                return resolver
        raise InvalidArgument(f"no resolver takes references like {reference[:160]!r}", reason="NO_RESOLVER")

    async def _layers(self, fetching: _Pull, manifest: Manifest) -> None:
        async with task_group() as group:
            self._arrivals(group, fetching, manifest, fetching.blob).begin()

    async def _unpack(
        self,
        fetching: _Pull,
        manifest: Manifest,
        target: Descriptor,
        platform: Platform | None,
        snapshotter: str,
        *,
        dropped: bool,
    ) -> None:
        """Unpack layers as they come, and have come what is not there as a snapshot."""
        async with AsyncExitStack() as stack:
            passing: Passage | None = None
            if dropped:
                own = passage(self._leases, fetching.scope, manifest.layers)
                passing = await stack.enter_async_context(own)
            group = await stack.enter_async_context(task_group())

            async def fetch(layer: Descriptor, coming: Coming | None = None) -> None:
                if passing is not None:
                    await passing.hold(layer)
                await fetching.blob(layer, coming)

            async def done(number: int) -> None:
                if passing is not None:
                    await passing.let_go(number)

            beside = self._unpacker.beside(snapshotter)
            coming = self._arrivals(group, fetching, manifest, fetch, longest_first=beside)
            await self._unpacker.unpack(
                fetching.scope,
                target,
                platform,
                snapshotter,
                fetching.report,
                name=fetching.name,
                ready=coming.wait,
                coming=coming.coming,
                done=done,
            )
            missing = [layer for layer in coming.untouched if not await fetching.is_here(layer)]
            if missing and not dropped:
                # Unpacked before, and the blob is gone since: a pull brings all of an image, but for what
                # somebody else keeps.
                remote = await self._unpacker.remote(fetching.scope, target, platform, snapshotter)
                for number, layer in enumerate(coming.untouched):
                    if layer in missing and not remote[number]:
                        group.start_soon(fetch, layer)

    def _arrivals(
        self,
        group: TaskGroup,
        fetching: _Pull,
        manifest: Manifest,
        fetch: Fetch,
        *,
        longest_first: bool = False,
    ) -> Arrivals:
        for layer in manifest.layers:
            BlobReport(fetching.report, layer, blob_kind(layer)).state(BlobState.WAITING, 0)
        return Arrivals(
            group, manifest.layers, fetch, concurrency=self._concurrency, longest_first=longest_first
        )


class _Pull:
    """The fetching of one pull."""

    def __init__(self, fetcher: Fetcher, scope: Scope, source: Source, report: Report) -> None:
        self._fetcher = fetcher
        self._source = source
        self._labels = _source_labels(source.name)
        self._searched: set[str] = set()
        self.name = source.name
        self.scope = scope
        self.report = report

    async def blob(self, descriptor: Descriptor, coming: Coming | None = None) -> None:
        """Have a blob in the store."""
        progress = BlobReport(self.report, descriptor, blob_kind(descriptor))
        await self._fetcher.fetch(self.scope, self._source, descriptor, progress, self._labels, coming)

    async def is_here(self, descriptor: Descriptor) -> bool:
        """Whether a blob is in the store; if so, all is done for it that :meth:`blob` does."""
        if not await self._fetcher.is_here(self.scope, descriptor):
            return False
        await self.blob(descriptor)
        return True

    async def everything(self, target: Descriptor, limiter: anyio.CapacityLimiter, but: str = "") -> None:
        """Fetch ``target`` and all that is below it, of whatever kind.

        :param but: the digest of a manifest whose layers are not kept
        """
        blobs: dict[str, Descriptor] = {}
        seen: set[str] = set()

        async def walk(descriptor: Descriptor, depth: int) -> None:
            if descriptor.digest in seen:
                return
            seen.add(descriptor.digest)
            if len(seen) > manifests.MAX_CHILDREN or depth > manifests.MAX_DEPTH + 1:
                raise InvalidArgument(
                    f"{self._source.name} has too many parts, or nests them too deep", reason="TOO_DEEP"
                )
            if descriptor.media_type not in manifests.INDEX_TYPES | manifests.MANIFEST_TYPES:
                blobs[descriptor.digest] = descriptor
                return
            if descriptor.digest == but:
                return
            data = await self._document(descriptor)
            for child in manifests.children(descriptor, data):
                await walk(child, depth + 1)

        async def fetch(descriptor: Descriptor) -> None:
            async with limiter:
                await self.blob(descriptor)

        await walk(target, 0)
        async with task_group() as group:
            for descriptor in blobs.values():
                group.start_soon(fetch, descriptor)

    async def find(self, target: Descriptor, want: Platform, *, layers: bool = True) -> Manifest:
        """Fetch down from ``target`` to the manifest for a platform and its configuration.

        :param layers: have manifests keep their layers
        """
        self._searched.clear()
        offered: list[str] = []
        found = await self._search(target, want, None, 0, offered, layers)
        if found is None:
            raise NotFound(
                f"{self._source.name} has nothing for {platforms.normalize(want)}; it is for: "
                f"{', '.join(offered) or 'nothing known'}",
                reason="PLATFORM_NOT_FOUND",
                resource=f"image {self._source.name}",
                hint="ask for another with --platform",
            )
        return found

    async def _search(
        self,
        descriptor: Descriptor,
        want: Platform,
        declared: Platform | None,
        depth: int,
        offered: list[str],
        layers: bool,
    ) -> Manifest | None:
        # Indexes that list each other, or nothing that suits in endless ways, are not followed for ever.
        if descriptor.digest in self._searched or len(self._searched) >= manifests.MAX_SEARCHED:
            return None
        self._searched.add(descriptor.digest)
        data = await self._document(descriptor, layers=layers)
        if descriptor.media_type in manifests.MANIFEST_TYPES:
            manifest = manifests.parse_manifest(descriptor, data)
            return manifest if await self._serves(manifest, want, declared, offered) else None
        index = manifests.parse_index(descriptor, data)
        offered.append(manifests.offered(index))
        if depth >= manifests.MAX_DEPTH:
            return None
        for child in manifests.candidates(index, want):
            found = await self._search(child, want, child.platform, depth + 1, offered, layers)
            if found is not None:
                return found
        return None

    async def _serves(
        self, manifest: Manifest, want: Platform, declared: Platform | None, offered: list[str]
    ) -> bool:
        """Fetch a manifest's configuration; where no index declared a platform, ask it."""
        if manifest.is_image:
            manifests.check_size(manifest.config)
        await self.blob(manifest.config)
        if declared is not None or not manifest.is_image:
            return True
        data = await self._fetcher.document(self.scope, manifest.config)
        config = manifests.parse_config(manifest.config, data)
        if manifests.check_platform(config, want):
            return True
        offered.append(str(platforms.normalize(config.platform)))
        return False

    async def _document(self, descriptor: Descriptor, *, layers: bool = True) -> bytes:
        manifests.check_size(descriptor)
        progress = BlobReport(self.report, descriptor, blob_kind(descriptor))
        info = await self._fetcher.fetch(self.scope, self._source, descriptor, progress, self._labels)
        data = await self._fetcher.document(self.scope, descriptor)
        labels = manifests.child_labels(descriptor, data, layers=layers)
        await self._fetcher.label(self.scope, info, labels)
        return data


async def store_image(
    images: Images, scope: Scope, name: str, target: Descriptor, labels: Labels | None = None
) -> Image:
    """Give ``target`` a name; one that is taken moves, its labels stay, and one that has it is left alone."""
    image = Image(name, target, labels or {})
    while True:
        try:
            found = await images.get(scope, name)
        except NotFound:
            with suppress(AlreadyExists):  # made just now
                return await images.create(scope, image)
            continue
        if _is_same(found, image):
            return found
        with suppress(NotFound):  # removed just now
            paths = ["target", *(f"labels.{key}" for key in image.labels)]
            return await images.update(scope, image, paths)


def _is_same(found: Image, wanted: Image) -> bool:
    target, other = found.target, wanted.target
    return (target.digest, target.media_type, target.size, target.annotations) == (
        other.digest,
        other.media_type,
        other.size,
        other.annotations,
    ) and wanted.labels.items() <= found.labels.items()


def _source_labels(name: str) -> Labels:
    """Where a blob came from, in containerd's spelling: a later push may mount it instead of sending it."""
    try:
        reference = parse_reference(name)
    except InvalidArgument:
        return {}
    label, value = f"{_SOURCE_LABEL}{reference.host}", reference.path
    return {label: value} if len(label) + len(value) <= 4096 else {}
