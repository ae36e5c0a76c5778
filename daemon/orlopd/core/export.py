"""Export: named images as one tar that is an OCI layout and a ``docker save`` archive at once."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orlopd.plugin.errors import InvalidArgument, NotFound
from orlopd.plugin.values import Descriptor, Image, Platform

from . import manifests, platforms
from .content import Content
from .documents import descriptor_object, dump
from .images import Images
from .leases import Leases, Resource
from .manifests import MAX_DEPTH, MAX_DOCUMENT
from .references import parse_reference
from .scope import Scope
from .stored_images import StoredImages
from .tarstream import END, header, padding

_FOREIGN = (
    "application/vnd.docker.image.rootfs.foreign.",
    "application/vnd.oci.image.layer.nondistributable.",
)
NAME_ANNOTATION = "io.containerd.image.name"
REF_ANNOTATION = "org.opencontainers.image.ref.name"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What of the images goes into an archive.

    :param platform: this one's manifest alone, in place of the index
    :param kept: of an index's children with a platform, those that serve one of these; all when empty
    :param complete: everything must be here, not just one of an index's children
    :param skip_missing: write manifests, too, whose configuration or layers are not here, without these
    :param docker: write what Docker reads, too
    :param foreign: write layers that are not to be given to others
    """

    platform: Platform | None = None
    kept: tuple[Platform, ...] = ()
    complete: bool = False
    skip_missing: bool = False
    docker: bool = True
    foreign: bool = True


_DEFAULTS = ExportOptions()


class Exporter:
    """Writes archives. The same images give the same bytes."""

    def __init__(self, content: Content, images: Images, stored: StoredImages, leases: Leases) -> None:
        self._content = content
        self._images = images
        self._stored = stored
        self._leases = leases

    async def export(
        self, scope: Scope, names: Sequence[str], options: ExportOptions = _DEFAULTS
    ) -> AsyncGenerator[bytes]:
        """The archive in pieces of up to 1 MiB. What fails, fails before the first of them.

        :param names: full or familiar
        :raises NotFound: no such image, nothing for this platform, or its content is not here
        """
        async with self._leases.hold(scope) as held:
            images = [await self._image(held, name) for name in dict.fromkeys(names)]
            if not images:
                raise InvalidArgument("no image was named for export")
            plan, platform = _Plan(self._content, held, options), options.platform
            entries: list[dict[str, Any]] = []
            docker: dict[str, dict[str, Any]] = {}
            for image in images:
                await self._leases.add_resource(held, held.lease, Resource("content", image.target.digest))
                target = image.target
                if platform is not None:
                    target, _ = await self._stored.find_serving(held, target, platform)
                await plan.add(image.name, target)
                entries.append(descriptor_object(replace(target, annotations=_annotations(image.name))))
                if options.docker:
                    await self._for_docker(held, image, target, platform, docker)
            async for piece in self._write(held, plan, entries, list(docker.values())):
                yield piece

    async def _image(self, scope: Scope, name: str) -> Image:
        try:
            return await self._images.get(scope, name)
        except NotFound:
            full = parse_reference(name).name
            if full == name:
                raise
            return await self._images.get(scope, full)

    async def _for_docker(
        self,
        scope: Scope,
        image: Image,
        target: Descriptor,
        platform: Platform | None,
        entries: dict[str, dict[str, Any]],
    ) -> None:
        """Docker's manifest has one platform of each image: the one asked for, or this machine's."""
        want = platform or platforms.current()
        try:
            descriptor, manifest = await self._stored.find_manifest(scope, target, want)
        except NotFound:
            return
        if not manifest.is_image:
            return
        entry = entries.setdefault(
            descriptor.digest,
            {
                "Config": _path(manifest.config.digest),
                "RepoTags": [],
                "Layers": [_path(layer.digest) for layer in manifest.layers],
            },
        )
        if tagged := _tagged(image.name):
            entry["RepoTags"].append(tagged)

    async def _write(
        self, scope: Scope, plan: _Plan, entries: list[dict[str, Any]], docker: list[dict[str, Any]]
    ) -> AsyncGenerator[bytes]:
        index = dump({"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": entries})
        documents = [("index.json", index), ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')]
        if docker:
            compact = json.dumps(docker, separators=(",", ":"), sort_keys=True).encode()
            documents.insert(1, ("manifest.json", compact))
        folders = sorted({"blobs/"} | {_path(digest).rpartition("/")[0] + "/" for digest in plan.blobs})
        for folder in folders:
            yield header(folder, 0, directory=True)
        for digest, size in sorted(plan.blobs.items()):
            yield header(_path(digest), size)
            async with await self._content.open(scope, digest) as reader:
                done = 0
                while done < size and (piece := await reader.read_at(done, min(_PIECE, size - done))):
                    done += len(piece)
                    yield piece
            yield padding(size)
        for name, data in documents:
            yield header(name, len(data)) + data + padding(len(data))
        yield END


class _Plan:
    """The blobs that an archive is to have, by digest with their sizes."""

    def __init__(self, content: Content, scope: Scope, options: ExportOptions) -> None:
        self._content = content
        self._scope = scope
        self._options = options
        self._seen: dict[str, bool] = {}
        self.blobs: dict[str, int] = {}

    async def add(self, name: str, target: Descriptor) -> None:
        """Add all that is here of an image. :raises NotFound: not one manifest of it is complete"""
        if not await self._collect(target, 0):
            raise NotFound(
                f"the content of image {name} is not all here",
                reason="INCOMPLETE_IMAGE",
                resource=f"image {name}",
                hint="pull it again, or name a platform that is here",
            )

    async def _collect(self, descriptor: Descriptor, depth: int) -> bool:
        """Add a descriptor's blob and all below; whether it can be had whole."""
        if descriptor.digest not in self._seen:
            self._seen[descriptor.digest] = await self._look(descriptor, depth)
        return self._seen[descriptor.digest]

    async def _look(self, descriptor: Descriptor, depth: int) -> bool:
        if descriptor.media_type.startswith(_FOREIGN) and not self._options.foreign:
            return True
        try:
            info = await self._content.info(self._scope, descriptor.digest)
        except NotFound:
            return False
        known = manifests.INDEX_TYPES | manifests.MANIFEST_TYPES
        if descriptor.media_type in known and depth <= MAX_DEPTH:
            data = await self._content.read_blob(self._scope, descriptor.digest, MAX_DOCUMENT)
            children = [each for each in manifests.children(descriptor, data) if self._is_kept(each)]
            here = [await self._collect(child, depth + 1) for child in children]
            is_index = descriptor.media_type in manifests.INDEX_TYPES
            # Of an index, some platforms may be here; of a manifest, everything must be.
            some = is_index and not self._options.complete
            if not self._options.skip_missing and not (any(here) or not here if some else all(here)):
                return False
        self.blobs[info.digest] = info.size
        return True

    def _is_kept(self, child: Descriptor) -> bool:
        kept, platform = self._options.kept, child.platform
        if not kept or platform is None:
            return True
        return any(platforms.match(want, platform) is not None for want in kept)


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _tagged(name: str) -> str:
    """The name for Docker, which knows images in archives by tags alone."""
    try:
        reference = parse_reference(name)
    except InvalidArgument:
        return ""
    return f"{reference.repository}:{reference.tag}" if reference.tag else ""


def _annotations(name: str) -> dict[str, str]:
    try:
        tag = parse_reference(name).tag
    except InvalidArgument:
        tag = ""
    return {NAME_ANNOTATION: name, REF_ANNOTATION: tag or name}
