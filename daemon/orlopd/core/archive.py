"""Import: from an archive of images, as Docker or OCI tools write them, to named images.

Specifications: OCI image-spec, image-layout.md; the format of ``docker save``; containerd's
annotations for names.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orlopd.plugin.errors import InvalidArgument, NotFound
from orlopd.plugin.values import NO_LABELS, Descriptor, Image, Labels, Platform, sha256

from . import manifests
from .archive_reader import Contents, read_archive
from .build import add_document
from .compression import GZIP_MAGIC, ZSTD_MAGIC
from .content import Content
from .documents import Node, descriptor_object, dump, load, load_any
from .export import NAME_ANNOTATION, REF_ANNOTATION, Exporter, ExportOptions
from .fetch import add_labels
from .images import Images
from .leases import Leases
from .manifests import MAX_CHILDREN, MAX_DEPTH, MAX_DOCUMENT, MAX_LAYERS, Manifest
from .parts import ImageChecks
from .progress import Report, silent
from .pull import store_image
from .references import parse_reference
from .scope import Scope
from .stored_images import StoredImages
from .tarstream import malformed
from .unpack import Unpacker


@dataclass(frozen=True, slots=True)
class Found:
    """An image of an archive.

    :param names: what the archive calls it: full names, and bare tags as ``:tag``
    :param firm: those of them that say a whole image's name by their place, not by their look
    """

    target: Descriptor
    names: list[str] = field(default_factory=list[str])
    firm: list[str] = field(default_factory=list[str])


Naming = Callable[[Found], Sequence[str]]


class Archiver:
    """Takes archives in and writes them."""

    def __init__(
        self,
        content: Content,
        images: Images,
        stored: StoredImages,
        unpacker: Unpacker,
        leases: Leases,
        checks: ImageChecks,
        *,
        discard: bool = False,
    ) -> None:
        """
        :param discard: what an import that does not say does with the blobs of layers that it has unpacked
        """
        self._discard = discard
        self._content = content
        self._images = images
        self._stored = stored
        self._unpacker = unpacker
        self._leases = leases
        self._checks = checks
        self._exporter = Exporter(content, images, stored, leases)

    async def import_archive(
        self,
        scope: Scope,
        stream: AsyncIterator[bytes],
        name: str = "",
        *,
        snapshotter: str = "",
        unpack: bool = True,
        discard: bool | None = None,
        platform: Platform | None = None,
        naming: Naming | None = None,
        labels: Labels = NO_LABELS,
        report: Report = silent,
    ) -> list[Image]:
        """Store the images of an archive: OCI layout or ``docker save``, a tar, plain or with gzip.

        All of it or nothing: names are given when everything is checked and unpacked.

        :param name: for an image that the archive leaves unnamed
        :param naming: decides on the names instead; what it leaves without one is not kept
        :param labels: for the names
        :param unpack: unpack images that have something for ``platform``, this machine's by default
        :param discard: do not keep the layers of what is unpacked, unless another image needs them
        :raises InvalidArgument: no archive, a truncated or hostile one, a name that is missing
        :raises DataLoss: a layer is not what the image's configuration says
        :raises PermissionDenied: a plugin refused an image
        """
        base = parse_reference(name).name if name else ""
        async with self._leases.hold(scope) as held:
            contents = await read_archive(self._content, held, stream)
            found = await self._targets(held, contents)
            named = _name_all(found, base) if naming is None else _named_by(naming, found)
            dropped = unpack and (self._discard if discard is None else discard)
            for target in _distinct(named):
                thin = await self._unpacked(held, target, platform) if dropped else None
                await _Checker(self._content, held, thin.digest if thin else "").image(target)
            for full, target in named:
                await self._checks.check_image(scope.namespace, full, target)
            if unpack:
                for target in _distinct(named):
                    await self._unpack(held, target, platform, snapshotter, report)
            return [await store_image(self._images, held, full, target, labels) for full, target in named]

    def export_archive(
        self,
        scope: Scope,
        names: Sequence[str],
        platform: Platform | None = None,
        options: ExportOptions | None = None,
    ) -> AsyncGenerator[bytes]:
        """Write images as one archive that OCI tools and Docker read. See :class:`Exporter`."""
        return self._exporter.export(scope, names, options or ExportOptions(platform))

    async def _targets(self, scope: Scope, contents: Contents) -> list[Found]:
        """What the archive says are its images, each with the names it gives."""
        documents = contents.documents
        if "index.json" in documents and "oci-layout" in documents:
            version = load(documents["oci-layout"], "oci-layout", limit=4096).get("imageLayoutVersion").text()
            if not version.startswith("1."):
                raise malformed(f"its layout has version {version[:40]!r}; want 1.0.0")
            return _from_index(documents["index.json"])
        if "manifest.json" in documents:
            return await self._from_docker(scope, contents)
        raise malformed(
            "it has neither an OCI layout (index.json and oci-layout) nor Docker's manifest.json",
            "NOT_AN_IMAGE",
        )

    async def _from_docker(self, scope: Scope, contents: Contents) -> list[Found]:
        document = load_any(contents.documents["manifest.json"], "manifest.json", limit=MAX_DOCUMENT)
        found: list[Found] = []
        for entry in document.items(MAX_CHILDREN):
            names = [parse_reference(tag).name for tag in entry.object().get("RepoTags").texts(1000)]
            found.append(Found(await self._docker_image(scope, contents, entry), names, list(names)))
        return found

    async def _docker_image(self, scope: Scope, contents: Contents, entry: Node) -> Descriptor:
        stored = contents.file(entry.get("Config").text())
        config_descriptor = Descriptor(manifests.DOCKER_CONFIG, stored.digest, stored.size)
        manifests.check_size(config_descriptor)
        data = await self._content.read_blob(scope, stored.digest, MAX_DOCUMENT)
        config = manifests.parse_config(config_descriptor, data)
        layers: list[Descriptor] = []
        paths = entry.get("Layers").texts(MAX_LAYERS)
        if len(paths) != len(config.diff_ids):
            raise malformed(f"{entry.where} has {len(paths)} layers and {len(config.diff_ids)} diff ids")
        for path, diff_id in zip(paths, config.diff_ids, strict=True):
            layer = contents.file(path)
            media_type = _layer_type(layer.head)
            if media_type == manifests.DOCKER_LAYER and layer.digest != diff_id:
                raise malformed(
                    f"its layer {path[:120]!r} does not match: the configuration says {diff_id}, "
                    f"it is {layer.digest}",
                    "DIGEST_MISMATCH",
                )
            layers.append(Descriptor(media_type, layer.digest, layer.size))
        manifest = dump(
            {
                "schemaVersion": 2,
                "mediaType": manifests.DOCKER_MANIFEST,
                "config": descriptor_object(config_descriptor),
                "layers": [descriptor_object(layer) for layer in layers],
            }
        )
        target = Descriptor(manifests.DOCKER_MANIFEST, sha256(manifest), len(manifest))
        await add_document(self._content, scope, target, manifest)
        return target

    async def _unpack(
        self, scope: Scope, target: Descriptor, platform: Platform | None, snapshotter: str, report: Report
    ) -> None:
        if await self._unpacked(scope, target, platform):
            try:
                await self._unpacker.unpack(scope, target, platform, snapshotter, report)
            except NotFound as error:
                if error.reason != "PLATFORM_NOT_FOUND":
                    raise

    async def _unpacked(self, scope: Scope, target: Descriptor, platform: Platform | None) -> Manifest | None:
        """What of an image is to be unpacked, if anything."""
        try:
            _, manifest = await self._stored.find_serving(scope, target, platform)
        except NotFound as error:
            # An image for other machines can be stored and passed on all the same.
            if error.reason != "PLATFORM_NOT_FOUND":
                raise
            return None
        return manifest if manifest.is_image else None


class _Checker:
    """Walks what an archive brought, sets the labels that keep it, and finds what is missing."""

    def __init__(self, content: Content, scope: Scope, thin: str = "") -> None:
        """
        :param thin: the digest of a manifest that is not to keep its layers
        """
        self._content = content
        self._scope = scope
        self._thin = thin
        self._missing = ""
        self._seen: dict[str, bool] = {}

    async def image(self, target: Descriptor) -> None:
        """:raises InvalidArgument: no image under ``target`` is complete, or a document is malformed"""
        if not await self._complete(target, 0):
            raise malformed(f"it lacks {self._missing or target.digest}", "INCOMPLETE_ARCHIVE")

    async def _complete(self, descriptor: Descriptor, depth: int) -> bool:
        # Each once: indexes that list each other many times over would never end.
        if descriptor.digest not in self._seen:
            self._seen[descriptor.digest] = await self._look(descriptor, depth)
        return self._seen[descriptor.digest]

    async def _look(self, descriptor: Descriptor, depth: int) -> bool:
        if not await self._is_here(descriptor):
            return False
        if descriptor.media_type not in manifests.INDEX_TYPES | manifests.MANIFEST_TYPES:
            return True
        manifests.check_size(descriptor)
        data = await self._content.read_blob(self._scope, descriptor.digest, MAX_DOCUMENT)
        labels = manifests.child_labels(descriptor, data, layers=descriptor.digest != self._thin)
        info = await self._content.info(self._scope, descriptor.digest)
        await add_labels(self._content, self._scope, info, labels)
        if depth > MAX_DEPTH:
            raise malformed("its indexes are nested too deep", "ARCHIVE_LIMIT")
        found = [await self._complete(child, depth + 1) for child in manifests.children(descriptor, data)]
        # An index may list platforms that the archive was made without; a manifest must have all its parts.
        return any(found) if descriptor.media_type in manifests.INDEX_TYPES else all(found)

    async def _is_here(self, descriptor: Descriptor) -> bool:
        try:
            info = await self._content.info(self._scope, descriptor.digest)
        except NotFound:
            self._missing = self._missing or descriptor.digest
            return False
        if info.size != descriptor.size:
            raise malformed(
                f"it says {descriptor.digest} has {descriptor.size} bytes; it has {info.size}",
                "SIZE_MISMATCH",
            )
        return True


def _from_index(data: bytes) -> list[Found]:
    index = manifests.parse_index(Descriptor(manifests.OCI_INDEX, sha256(data), len(data)), data)
    grouped: dict[str, Found] = {}
    for child in index.manifests:
        if child.media_type in manifests.INDEX_TYPES | manifests.MANIFEST_TYPES:
            bare = Descriptor(child.media_type, child.digest, child.size)
            found = grouped.setdefault(child.digest, Found(bare))
            if said := _name_of(child.annotations):
                found.names.append(said)
                if NAME_ANNOTATION in child.annotations:
                    found.firm.append(said)
    return list(grouped.values())


def _name_of(annotations: Mapping[str, str]) -> str:
    """The name in an index entry's annotations; a bare tag comes back as ``:tag``."""
    if full := annotations.get(NAME_ANNOTATION, ""):
        return parse_reference(full).name
    said = annotations.get(REF_ANNOTATION, "")
    if "/" in said or ":" in said:
        return parse_reference(said).name
    return f":{said}" if said else ""


def _name_all(found: Sequence[Found], base: str) -> list[tuple[str, Descriptor]]:
    """A full name for each image. :raises InvalidArgument: one has none, or there is no image"""
    if not found:
        raise malformed("there is no image in it", "NOT_AN_IMAGE")
    named: dict[str, Descriptor] = {}
    unnamed: list[Descriptor] = []
    for each in found:
        names, target = each.names, each.target
        full = [each for each in names if not each.startswith(":")]
        tags = [each for each in names if each.startswith(":")]
        if base and not full and len(tags) > 1:
            full = [parse_reference(base).with_tag(tag[1:]).name for tag in tags]
        for name in full:
            named[name] = target
        if not full:
            unnamed.append(target)
    if unnamed and not base:
        raise InvalidArgument(
            f"the archive leaves an image unnamed ({unnamed[0].digest})",
            reason="NAME_MISSING",
            hint="give it a name",
        )
    if len(unnamed) > 1:
        raise InvalidArgument(
            f"the archive leaves {len(unnamed)} images unnamed; one name is not enough for them",
            reason="NAME_MISSING",
            hint="import archives of one image each, or name the images in the archive",
        )
    for target in unnamed:
        named[base] = target
    return list(named.items())


def _named_by(naming: Naming, found: Sequence[Found]) -> list[tuple[str, Descriptor]]:
    if not found:
        raise malformed("there is no image in it", "NOT_AN_IMAGE")
    return list({name: (name, each.target) for each in found for name in naming(each)}.values())


def _distinct(named: Sequence[tuple[str, Descriptor]]) -> Sequence[Descriptor]:
    return list({target.digest: target for _, target in named}.values())


def _layer_type(head: bytes) -> str:
    if head.startswith(GZIP_MAGIC):
        return manifests.DOCKER_LAYER_GZIP
    if head.startswith(ZSTD_MAGIC):
        return manifests.DOCKER_LAYER_ZSTD
    return manifests.DOCKER_LAYER
