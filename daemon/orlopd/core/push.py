"""Push: from a named image to where a reference points, its parts first and the name last."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field

import anyio

from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from orlopd.plugin.references import Reference
from orlopd.plugin.resolver import Destination, Pushed, PushingResolver, ResolveOptions, Resolver
from orlopd.plugin.values import Descriptor, Image, Platform

from . import manifests
from .content import Content, ContentInfo
from .fetch import add_labels, blob_kind
from .flow import task_group
from .leases import Leases, Resource
from .manifests import INDEX_TYPES, MANIFEST_TYPES, MAX_DEPTH, MAX_DOCUMENT
from .progress import BlobReport, BlobState, Report, Resolved, silent
from .references import parse_reference
from .scope import Scope
from .stored_images import StoredImages

CONCURRENCY = 4
SOURCE_LABEL = "containerd.io/distribution.source."
_PIECE = 1 << 20
_DEFAULTS = ResolveOptions()
_STATES = {
    Pushed.SENT: BlobState.PUSHED,
    Pushed.MOUNTED: BlobState.MOUNTED,
    Pushed.EXISTS: BlobState.EXISTS,
}
_NOT_FOR_OTHERS = (
    "application/vnd.docker.image.rootfs.foreign.",
    "application/vnd.oci.image.layer.nondistributable.",
)
_MOST_SOURCES = 4


class Pusher:
    """Pushes images.

    :param resolvers: asked in this order whether a reference is theirs
    :param concurrency: the most blobs one push sends at a time
    """

    def __init__(
        self,
        content: Content,
        stored: StoredImages,
        resolvers: Sequence[Resolver],
        leases: Leases,
        *,
        concurrency: int = CONCURRENCY,
    ) -> None:
        self._content = content
        self._stored = stored
        self._resolvers = resolvers
        self._leases = leases
        self._concurrency = concurrency

    async def push(
        self,
        scope: Scope,
        image: Image,
        reference: str = "",
        *,
        platforms: Sequence[Platform] = (),
        options: ResolveOptions = _DEFAULTS,
        report: Report = silent,
    ) -> Resolved:
        """Have ``reference`` point at what ``image`` is, with everything below it.

        What is there is not sent again, what the destination has in another repository it may take from
        there, and the reference changes last: who pulls it finds all of it or what was there before.

        :param reference: the image's own name when empty
        :param platforms: push the manifest for this one alone. Of an index, several are not possible: what is
            left out would change its digest. Empty for all that the image is.
        :param report: told first :class:`Resolved`, then each blob's progress
        :returns: what the reference points at now
        :raises InvalidArgument: malformed reference or manifest
        :raises NotFound: nothing for this platform
        :raises FailedPrecondition: a part of the image is neither here nor there (reason INCOMPLETE_IMAGE)
        :raises Unimplemented: nothing can be pushed to references like this
        :raises OrlopError: as the destination has it
        """
        resolver = self._choose(reference or image.name)
        async with self._leases.hold(scope) as held:
            await self._leases.add_resource(held, held.lease, Resource("content", image.target.digest))
            target = await self._target(held, image, platforms)
            plan = _Plan(self._content, held)
            await plan.add(target)
            async with resolver.push(reference or image.name, options) as destination:
                resolved = Resolved(destination.name, target.digest, target.media_type)
                report(resolved)
                sending = _Push(self._content, held, destination, report, self._concurrency)
                await sending.missing(plan.missing, image)
                await sending.blobs(plan.blobs)
                for document in plan.documents:
                    if document.digest != target.digest:
                        await sending.send(document)
                await sending.finish(target)
                return resolved

    def _choose(self, reference: str) -> PushingResolver:
        for resolver in self._resolvers:
            if resolver.handles(reference):
                if isinstance(resolver, PushingResolver):
                    return resolver
                raise Unimplemented(
                    f"nothing can be pushed to references like {reference[:160]!r}", reason="NO_PUSH"
                )
        raise InvalidArgument(f"no resolver takes references like {reference[:160]!r}", reason="NO_RESOLVER")

    async def _target(self, scope: Scope, image: Image, platforms: Sequence[Platform]) -> Descriptor:
        if len(platforms) > 1:
            raise InvalidArgument(
                f"{len(platforms)} platforms of one image cannot be pushed: name one, or none for all of it"
            )
        if not platforms:
            return image.target
        target, _ = await self._stored.find_serving(scope, image.target, platforms[0])
        return target


class _Plan:
    """What there is to push: blobs in any order, documents each after those it points at."""

    def __init__(self, content: Content, scope: Scope) -> None:
        self._content = content
        self._scope = scope
        self._seen: set[str] = set()
        self.blobs: list[Descriptor] = []
        self.documents: list[Descriptor] = []
        self.missing: list[Descriptor] = []

    async def add(self, descriptor: Descriptor, depth: int = 0) -> None:
        """Add a descriptor and what it points at. :raises InvalidArgument: a document is malformed"""
        if descriptor.digest in self._seen:
            return
        self._seen.add(descriptor.digest)
        known = descriptor.media_type in INDEX_TYPES | MANIFEST_TYPES
        try:
            info = await self._content.info(self._scope, descriptor.digest)
        except NotFound:
            if not descriptor.media_type.startswith(_NOT_FOR_OTHERS):
                self.missing.append(descriptor)
            return
        if info.size != descriptor.size:
            raise manifests.malformed(
                f"{descriptor.digest} has {info.size} bytes; the image says {descriptor.size}",
                "SIZE_MISMATCH",
            )
        if not known:
            if not descriptor.media_type.startswith(_NOT_FOR_OTHERS):
                self.blobs.append(descriptor)
            return
        manifests.check_size(descriptor)
        data = await self._content.read_blob(self._scope, descriptor.digest, MAX_DOCUMENT)
        if depth > MAX_DEPTH:
            raise manifests.malformed("its indexes are nested too deep", "TOO_DEEP")
        for child in manifests.children(descriptor, data):
            await self.add(child, depth + 1)
        self.documents.append(descriptor)


@dataclass(frozen=True, slots=True)
class _Push:
    """The sending of one push."""

    content: Content
    scope: Scope
    destination: Destination
    report: Report
    concurrency: int
    _reports: dict[str, BlobReport] = field(default_factory=dict[str, BlobReport])

    async def missing(self, descriptors: Sequence[Descriptor], image: Image) -> None:
        """What is not here must be there. :raises FailedPrecondition: it is not"""
        for descriptor in descriptors:
            if not await self.destination.exists(descriptor):
                platform = f" for {descriptor.platform}" if descriptor.platform else ""
                raise FailedPrecondition(
                    f"the content of image {image.name} is not all here: {descriptor.digest}{platform} is "
                    f"missing, and {self.destination.name.rpartition('/')[0]} does not have it either",
                    reason="INCOMPLETE_IMAGE",
                    resource=f"image {image.name}",
                    hint="push the part that is here with --platform, or pull all of it first",
                )

    async def blobs(self, descriptors: Sequence[Descriptor]) -> None:
        """Send blobs, several at a time."""
        limiter = anyio.CapacityLimiter(self.concurrency)

        async def one(descriptor: Descriptor) -> None:
            async with limiter:
                await self.send(descriptor)

        async with task_group() as group:
            for descriptor in descriptors:
                self._of(descriptor).state(BlobState.WAITING, 0)
                group.start_soon(one, descriptor)

    async def send(self, descriptor: Descriptor) -> None:
        """Send one blob or document, and note where it is now."""
        info = await self.content.info(self.scope, descriptor.digest)
        told = self._of(descriptor)
        outcome = await self.destination.push(
            descriptor,
            lambda offset: self._open(descriptor, offset),
            sources=self._sources(info),
            sent=lambda offset: told.state(BlobState.PUSHING, offset),
        )
        told.state(_STATES[outcome])
        await self._note(info)

    async def finish(self, target: Descriptor) -> None:
        """Send the document on top under the reference's name."""
        outcome = await self.destination.finish(target, lambda offset: self._open(target, offset))
        self._of(target).state(_STATES[outcome])

    def _of(self, descriptor: Descriptor) -> BlobReport:
        if descriptor.digest not in self._reports:
            self._reports[descriptor.digest] = BlobReport(self.report, descriptor, blob_kind(descriptor))
        return self._reports[descriptor.digest]

    def _open(self, descriptor: Descriptor, offset: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return aclosing(self._read(descriptor, offset))

    async def _read(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes]:
        async with await self.content.open(self.scope, descriptor.digest) as reader:
            at = offset
            while at < reader.size and (piece := await reader.read_at(at, _PIECE)):
                at += len(piece)
                yield piece

    def _sources(self, info: ContentInfo) -> Sequence[str]:
        """Repositories of the destination's host that a blob came from, or went to, before."""
        reference = self._reference()
        if reference is None:
            return ()
        known = info.labels.get(f"{SOURCE_LABEL}{reference.host}", "")
        found = [each for each in known.split(",") if each and each != reference.path]
        return [each for each in found if _is_path(reference.host, each)][:_MOST_SOURCES]

    async def _note(self, info: ContentInfo) -> None:
        reference = self._reference()
        if reference is None:
            return
        label = f"{SOURCE_LABEL}{reference.host}"
        known = [each for each in info.labels.get(label, "").split(",") if each]
        value = ",".join([*known, reference.path])
        if reference.path not in known and len(label) + len(value) <= 4096:
            await add_labels(self.content, self.scope, info, {label: value})

    def _reference(self) -> Reference | None:
        try:
            return parse_reference(self.destination.name)
        except InvalidArgument:
            return None


def _is_path(host: str, path: str) -> bool:
    """A label can be set by anybody; what it says becomes part of a URL and of a token's scope."""
    try:
        return parse_reference(f"{host}/{path}").path == path
    except InvalidArgument:
        return False
