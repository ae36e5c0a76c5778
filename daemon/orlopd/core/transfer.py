"""Transfers: images between registries, archives and the store, named as containerd's clients ask."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from orlopd.plugin.errors import InvalidArgument, Unimplemented
from orlopd.plugin.resolver import ResolveOptions
from orlopd.plugin.values import NO_LABELS, Descriptor, Image, Platform, now

from .archive import Archiver, Found
from .export import ExportOptions
from .images import Images
from .leases import Leases
from .progress import Report, silent
from .pull import Puller, store_image
from .push import Pusher
from .scope import Scope
from .stored_images import StoredImages
from .unpack import Unpacker

_BACK_REFERENCE = "containerd.io/gc.bref.image"
_EXPIRE = "containerd.io/gc.expire"


@dataclass(frozen=True, slots=True)
class ExtraName:
    """A further name of an image, or how to make further names.

    :param is_prefix: ``name`` is what bare tags of an archive are put behind
    :param allow_overwrite: names of an archive may lie outside of ``name``
    :param add_digest: add ``name@digest``
    :param skip_named_digest: but not where the archive gave a name
    """

    name: str
    is_prefix: bool = False
    allow_overwrite: bool = False
    add_digest: bool = False
    skip_named_digest: bool = False


@dataclass(frozen=True, slots=True)
class Unpacking:
    """A platform to unpack, and into what; this machine's and the default one when empty."""

    platform: Platform | None = None
    snapshotter: str = ""


@dataclass(frozen=True, slots=True)
class StoreEnd:
    """The image store as one end of a transfer.

    :param name: the image's exact name
    :param platforms: those to move; all when empty
    """

    name: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    platforms: tuple[Platform, ...] = ()
    extra: tuple[ExtraName, ...] = ()
    unpacks: tuple[Unpacking, ...] = ()

    def names_of(self, digest: str) -> list[str]:
        """The names that one image gets."""
        names = [self.name] if self.name else []
        for each in self.extra:
            if each.add_digest:
                names.append(f"{each.name}@{digest}")
            elif not each.is_prefix:
                names.append(each.name)
        return names

    def names_from(self, found: Found) -> list[str]:
        """The names that an image of an archive gets."""
        names: list[str] = []
        for each in self.extra:
            if not each.is_prefix:
                continue
            own = [name for said in found.names if (name := _under(each, said, said in found.firm))]
            names += own
            if each.add_digest and not (own and each.skip_named_digest):
                names.append(f"{each.name}@{found.target.digest}")
        return names

    def labels_of(self, name: str) -> Mapping[str, str]:
        """The labels of one of the names: further ones go with the first."""
        if not self.name or name == self.name:
            return self.labels
        at = now().strftime("%Y-%m-%dT%H:%M:%SZ")
        return {**self.labels, _BACK_REFERENCE: self.name, _EXPIRE: at}


def _under(extra: ExtraName, said: str, firm: bool) -> str:
    if said.startswith(":"):
        return f"{extra.name}{said}"
    if firm or extra.allow_overwrite:
        return said
    rest = said.removeprefix(extra.name)
    return said if rest != said and (not rest or rest[0] in "/:@") else ""


class Transfers:
    """Moves images from end to end. Errors are those of what does the moving."""

    def __init__(
        self,
        puller: Puller,
        pusher: Pusher,
        archiver: Archiver,
        stored: StoredImages,
        unpacker: Unpacker,
        images: Images,
        leases: Leases,
        *,
        discard: bool = False,
    ) -> None:
        """
        :param discard: whether the blobs of layers are dropped that are unpacked
        """
        self._discard = discard
        self._puller = puller
        self._pusher = pusher
        self._archiver = archiver
        self._stored = stored
        self._unpacker = unpacker
        self._images = images
        self._leases = leases

    async def pull(
        self,
        scope: Scope,
        reference: str,
        end: StoreEnd,
        options: ResolveOptions,
        report: Report = silent,
    ) -> list[Image]:
        """From a registry to the store. :returns: the images as they are stored"""
        first = end.unpacks[0] if end.unpacks else None
        main = first.platform if first else next(iter(end.platforms), None)
        stored: list[Image] = []

        async def store(held: Scope, target: Descriptor) -> Image:
            await self._unpack_further(held, target, end.unpacks, report)
            stored.extend(await self._store(held, end, target))
            return stored[0]

        await self._puller.pull(
            scope,
            reference,
            platform=main,
            snapshotter=first.snapshotter if first else "",
            options=options,
            unpack=first is not None,
            discard=self._discard and len(end.unpacks) == 1,
            also=[each for each in end.platforms if each != main] if end.platforms else None,
            store=store,
            report=report,
        )
        return stored

    async def push(
        self,
        scope: Scope,
        end: StoreEnd,
        reference: str,
        options: ResolveOptions,
        report: Report = silent,
    ) -> Image:
        """From the store to a registry. :returns: the image that was pushed"""
        image = await self._images.get(scope, end.name)
        await self._pusher.push(
            scope, image, reference, platforms=end.platforms, options=options, report=report
        )
        return image

    async def tag(self, scope: Scope, source: StoreEnd, end: StoreEnd) -> list[Image]:
        """Within the store: further names for an image."""
        image = await self._images.get(scope, source.name)
        return await self._store(scope, end, image.target)

    async def import_archive(
        self, scope: Scope, stream: AsyncIterator[bytes], end: StoreEnd, report: Report = silent
    ) -> list[Image]:
        """From an archive to the store. :returns: the images as they are stored"""
        async with self._leases.hold(scope) as held:
            first = end.unpacks[0] if end.unpacks else None

            def naming(found: Found) -> Sequence[str]:
                return [*([end.name] if end.name else []), *end.names_from(found)]

            images = await self._archiver.import_archive(
                held,
                stream,
                naming=naming,
                labels=end.labels,
                unpack=first is not None,
                discard=self._discard and len(end.unpacks) == 1,
                platform=first.platform if first else None,
                snapshotter=first.snapshotter if first else "",
                report=report,
            )
            for target in {image.target.digest: image.target for image in images}.values():
                await self._unpack_further(held, target, end.unpacks, report)
        if not images:
            raise InvalidArgument(
                "the transfer gives the archive's images no name: name one, or a prefix for them",
                reason="NAME_MISSING",
            )
        return images

    async def export_archive(
        self, scope: Scope, end: StoreEnd, options: ExportOptions
    ) -> AsyncGenerator[bytes]:
        """From the store to an archive."""
        if any(each.is_prefix for each in end.extra):
            raise Unimplemented("images cannot be exported by a prefix of their names")
        names = [*([end.name] if end.name else []), *(each.name for each in end.extra)]
        for name in names:
            await self._images.get(scope, name)
        async for piece in self._archiver.export_archive(scope, names, options=options):
            yield piece

    async def _unpack_further(
        self, scope: Scope, target: Descriptor, unpacks: Sequence[Unpacking], report: Report
    ) -> None:
        """Unpack for all but the first, for which it is done; only then does no one need the layers."""
        for each in unpacks[1:]:
            await self._unpacker.unpack(scope, target, each.platform, each.snapshotter, report)
        if self._discard and len(unpacks) > 1:
            for each in unpacks:
                await self._stored.let_layers_go(scope, target, each.platform)

    async def _store(self, scope: Scope, end: StoreEnd, target: Descriptor) -> list[Image]:
        names = end.names_of(target.digest)
        if not names:
            raise InvalidArgument("the transfer gives the image no name", reason="NAME_MISSING")
        return [await store_image(self._images, scope, name, target, end.labels_of(name)) for name in names]
