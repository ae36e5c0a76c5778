"""Blobs from a source into the content store: once, verified, and resumed where they broke off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

import anyio
import anyio.to_thread

from orlopd.plugin.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound, Unavailable
from orlopd.plugin.resolver import Source
from orlopd.plugin.values import NO_LABELS, Descriptor, Labels

from . import manifests
from .arrival import Arrival
from .content import Content, ContentInfo, NamespacedIngest
from .locks import KeyedLocks
from .progress import BlobKind, BlobReport, BlobState
from .scope import Scope

_PIECE = 1 << 20
_BUSY_WAIT = 600.0

Coming = Callable[[Arrival], None]


def ingest_ref(descriptor: Descriptor) -> str:
    """The ref under which a blob comes in; containerd's clients use the same, so that we share ingests."""
    return f"{blob_kind(descriptor).value}-{descriptor.digest}"


def blob_kind(descriptor: Descriptor) -> BlobKind:
    """What a blob is, as its media type says."""
    if descriptor.media_type in manifests.INDEX_TYPES:
        return BlobKind.INDEX
    if descriptor.media_type in manifests.MANIFEST_TYPES:
        return BlobKind.MANIFEST
    if descriptor.media_type in manifests.CONFIG_TYPES:
        return BlobKind.CONFIG
    return BlobKind.LAYER


class Fetcher:
    """Brings blobs into a namespace."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._locks = KeyedLocks()

    async def fetch(
        self,
        scope: Scope,
        source: Source,
        descriptor: Descriptor,
        report: BlobReport,
        labels: Labels = NO_LABELS,
        coming: Coming | None = None,
    ) -> ContentInfo:
        """Have the blob in the store, with ``labels`` among its own; what is there is not fetched.

        What keeps it from collection is the caller's to provide beforehand. An ingest that breaks
        off stays, belonging to no lease, for the next call to take up.

        :param coming: told when it begins to come, if it can be read meanwhile
        :raises DataLoss: what came is not what the descriptor says; it was dropped
        """
        # Callers in one daemon wait for each other here, so that a blob comes over the network once.
        async with self._locks.hold(f"{scope.namespace}/{descriptor.digest}"):
            info = await self._existing(scope, descriptor)
            if info is not None:
                report.state(BlobState.EXISTS)
                return await self.label(scope, info, labels)
            await self._bring(scope, source, descriptor, report, labels, coming)
            info = await self._content.info(scope, descriptor.digest)
            return await self.label(scope, info, labels)

    async def is_here(self, scope: Scope, descriptor: Descriptor) -> bool:
        """Whether the namespace has a blob."""
        try:
            await self._content.info(scope, descriptor.digest)
        except NotFound:
            return False
        return True

    async def document(self, scope: Scope, descriptor: Descriptor) -> bytes:
        """The bytes of a stored index, manifest or configuration, bounded."""
        manifests.check_size(descriptor)
        return await self._content.read_blob(scope, descriptor.digest, manifests.MAX_DOCUMENT)

    async def label(self, scope: Scope, info: ContentInfo, labels: Mapping[str, str]) -> ContentInfo:
        """Add ``labels`` to a blob's; nothing is written when it has them."""
        return await add_labels(self._content, scope, info, labels)

    async def _existing(self, scope: Scope, descriptor: Descriptor) -> ContentInfo | None:
        try:
            info = await self._content.info(scope, descriptor.digest)
        except NotFound:
            return None
        if info.size != descriptor.size:
            raise DataLoss(
                f"{descriptor.digest} has {info.size} bytes; the image says {descriptor.size}",
                reason="SIZE_MISMATCH",
            )
        return info

    async def _bring(
        self,
        scope: Scope,
        source: Source,
        descriptor: Descriptor,
        report: BlobReport,
        labels: Labels,
        coming: Coming | None,
    ) -> None:
        while True:
            try:
                ingest = await self._open(scope, descriptor)
            except AlreadyExists:
                report.state(BlobState.EXISTS)
                return
            async with ingest:
                began = ingest.status.offset
                if began > descriptor.size:
                    await ingest.truncate(0)
                    began = 0
                arrival = await self._begin(ingest, descriptor, coming)
                coming = None  # once: whoever reads it waits for the end of another try
                try:
                    await self._transfer(ingest, source, descriptor, began, report, arrival)
                    problem = await self._commit(ingest, descriptor, labels)
                except DataLoss as error:
                    problem = error
            if problem is None:
                report.state(BlobState.EXISTS if ingest.shared else BlobState.FETCHED)
                if arrival is not None:
                    arrival.keep()
                return
            if arrival is not None:
                arrival.drop()
            await self._abort(scope, descriptor)
            if not began:
                raise problem
            # The bytes of an earlier attempt may be what is wrong; once more from the beginning.

    async def _begin(
        self, ingest: NamespacedIngest, descriptor: Descriptor, coming: Coming | None
    ) -> Arrival | None:
        if coming is None or ingest.path is None:
            return None
        try:
            arrival = await anyio.to_thread.run_sync(Arrival, ingest.path, descriptor.size)
        except OSError:
            return None  # aborted by somebody; the first write says so
        coming(arrival)
        return arrival

    async def _open(self, scope: Scope, descriptor: Descriptor) -> NamespacedIngest:
        # Without the lease: an ingest that a lease holds would go with it, and could not be resumed.
        unleased = Scope(scope.namespace)
        waited, pause = 0.0, 0.05
        while True:
            try:
                return await self._content.ingest(
                    unleased, ingest_ref(descriptor), total=descriptor.size, expected=descriptor.digest
                )
            except Unavailable:  # another client is fetching it right now
                if waited > _BUSY_WAIT:
                    raise
            await anyio.sleep(pause)
            waited, pause = waited + pause, min(pause * 1.5, 1.0)

    async def _transfer(
        self,
        ingest: NamespacedIngest,
        source: Source,
        descriptor: Descriptor,
        done: int,
        report: BlobReport,
        arrival: Arrival | None,
    ) -> None:
        report.state(BlobState.FETCHING, done)
        if arrival is not None:
            arrival.grow(done)
        if done >= descriptor.size:
            return
        held: list[bytes] = []
        kept = done

        async def flush() -> None:
            nonlocal kept
            data, kept = b"".join(held), done
            held.clear()
            await ingest.write(data)
            if arrival is not None:
                arrival.grow(ingest.status.offset)

        try:
            async with source.fetch(descriptor, done) as chunks:
                async for chunk in chunks:
                    done += len(chunk)
                    if done > descriptor.size:
                        raise _mismatch(
                            descriptor, f"more than the {descriptor.size} bytes the image says came"
                        )
                    held.append(chunk)
                    if done - kept >= _PIECE:  # each write is a trip to a thread
                        await flush()
                        report.state(BlobState.FETCHING, done)
        finally:
            # However it ends, what came need not come again.
            with anyio.CancelScope(shield=True):
                await flush()

    async def _commit(
        self, ingest: NamespacedIngest, descriptor: Descriptor, labels: Labels
    ) -> DataLoss | None:
        try:
            await ingest.commit(descriptor.size, descriptor.digest, labels)
        except AlreadyExists:
            return None
        except FailedPrecondition:
            size, digest = ingest.status.offset, await ingest.digest()
            if descriptor.size != size:
                what = f"{size} bytes came, the image says {descriptor.size}"
            else:
                what = f"what came is {digest}"
            return _mismatch(descriptor, what)
        return None

    async def _abort(self, scope: Scope, descriptor: Descriptor) -> None:
        with anyio.CancelScope(shield=True):
            with suppress(NotFound):
                await self._content.abort(scope, ingest_ref(descriptor))


async def add_labels(
    content: Content, scope: Scope, info: ContentInfo, labels: Mapping[str, str]
) -> ContentInfo:
    """Add ``labels`` to a blob's; nothing is written when it has them."""
    missing = {key: value for key, value in labels.items() if info.labels.get(key) != value}
    if not missing:
        return info
    changed = ContentInfo(
        info.digest, info.size, {**info.labels, **missing}, info.created_at, info.updated_at
    )
    return await content.update(scope, changed, [f"labels.{key}" for key in missing])


def _mismatch(descriptor: Descriptor, what: str) -> DataLoss:
    return DataLoss(
        f"content does not match: asked for {descriptor.digest}, {what}",
        reason="DIGEST_MISMATCH",
        resource=f"blob {descriptor.digest}",
        hint="the registry or something before it serves wrong content; nothing of it was kept",
    )
