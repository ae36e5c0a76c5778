"""Single parts behind the faces of the core, for another host that has metadata of its own.

A stock containerd that has one of our parts for a proxy plugin puts namespaces into the keys, and keeps
labels and leases itself. What is here takes the same calls as the core does and hands them on: the scope says
nothing here, except to a content store that has namespaces.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from orlopd.plugin.content import BlobReader, ContentStore, Ingest
from orlopd.plugin.errors import InvalidArgument, NotFound, Unimplemented
from orlopd.plugin.remote import LabelledContentStore, LabelledIngest, ScopedContentStore
from orlopd.plugin.snapshots import RebasingSnapshotter, Snapshotter
from orlopd.plugin.values import (
    NO_LABELS,
    BlobInfo,
    IngestStatus,
    Labels,
    Mount,
    SnapshotInfo,
    Usage,
)

from . import blobs
from . import snapshot_rows as rows
from .blobs import ContentInfo
from .filters import parse
from .identifiers import quoted
from .masks import select
from .scope import Scope


class ServedSnapshotter:
    """The calls of :class:`orlopd.core.snapshotter.NamespacedSnapshotter` to a bare snapshotter."""

    def __init__(self, part: Snapshotter) -> None:
        self._part = part

    def for_name(self, name: str) -> Self:
        """This one: the name in a request is what its host calls it."""
        return self

    async def stat(self, scope: Scope, key: str) -> SnapshotInfo:
        return await self._part.stat(key)

    async def update(self, scope: Scope, info: SnapshotInfo, paths: Sequence[str] = ()) -> SnapshotInfo:
        found = await self._part.stat(info.name)
        fields = select(
            f"snapshot {quoted(info.name)}",
            paths or ("labels",),
            {"labels": found.labels},
            {"labels": info.labels},
        )
        return await self._part.set_labels(info.name, dict(fields["labels"]))

    async def walk(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]:
        wanted = parse(filters)
        async for info in self._part.walk():
            if wanted.match(rows.adapt(info)):
                yield info

    async def usage(self, scope: Scope, key: str) -> Usage:
        return await self._part.usage(key)

    async def mounts(self, scope: Scope, key: str) -> Sequence[Mount]:
        return await self._part.mounts(key)

    async def prepare(
        self, scope: Scope, key: str, parent: str = "", labels: Labels = NO_LABELS
    ) -> Sequence[Mount]:
        return await self._part.prepare(key, parent, labels)

    async def view(
        self, scope: Scope, key: str, parent: str = "", labels: Labels = NO_LABELS
    ) -> Sequence[Mount]:
        return await self._part.view(key, parent, labels)

    async def commit(
        self, scope: Scope, name: str, key: str, labels: Labels = NO_LABELS, *, parent: str = ""
    ) -> None:
        if not parent:
            await self._part.commit(name, key, labels)
        elif isinstance(self._part, RebasingSnapshotter):
            await self._part.commit_onto(name, key, parent, labels)
        else:
            raise Unimplemented(f"cannot commit snapshot {key} on another parent: not implemented")

    async def remove(self, scope: Scope, key: str) -> None:
        await self._part.remove(key)

    async def cleanup(self, scope: Scope) -> None:
        await self._part.cleanup()


class ServedContent:
    """The calls of :class:`orlopd.core.content.Content` to a bare content store."""

    def __init__(self, part: ContentStore) -> None:
        self._part = part

    def _store(self, scope: Scope) -> ContentStore:
        return (
            self._part.scoped(scope.namespace) if isinstance(self._part, ScopedContentStore) else self._part
        )

    async def info(self, scope: Scope, digest: str) -> ContentInfo:
        return _info(await self._store(scope).info(digest))

    async def find(self, scope: Scope, digest: str) -> bool:
        try:
            await self._store(scope).info(digest)
        except NotFound:
            return False
        return True

    async def walk(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[ContentInfo]:
        wanted = parse(filters)
        async for blob in self._store(scope).blobs():
            info = _info(blob)
            if wanted.match(blobs.adapt(info)):
                yield info

    async def update(self, scope: Scope, info: ContentInfo, paths: Sequence[str] = ()) -> ContentInfo:
        """:raises Unimplemented: this store keeps no labels, they are the host's business"""
        store = self._store(scope)
        found = await store.info(info.digest)
        if not isinstance(store, LabelledContentStore):
            raise Unimplemented("this content store keeps no labels: not implemented")
        return replace(_info(found), labels=await store.set_labels(info.digest, info.labels, paths))

    async def delete(self, scope: Scope, digest: str) -> None:
        await self._store(scope).delete(digest)

    async def open(self, scope: Scope, digest: str) -> BlobReader:
        return await self._store(scope).open(digest)

    async def ingest(self, scope: Scope, ref: str, *, total: int = 0, expected: str = "") -> ServedIngest:
        return ServedIngest(await self._store(scope).ingest(ref, total=total, expected=expected))

    async def status(self, scope: Scope, ref: str) -> IngestStatus:
        return await self._store(scope).status(ref)

    async def statuses(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[IngestStatus]:
        wanted = parse(filters)
        found = [status async for status in self._store(scope).ingests()]
        return [
            status
            for status in sorted(found, key=lambda status: status.ref)
            if wanted.match(lambda path, ref=status.ref: ref if path[0] == "ref" else None)
        ]

    async def abort(self, scope: Scope, ref: str) -> None:
        await self._store(scope).abort(ref)


class ServedIngest:
    """An ingest that takes labels where the store does."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    @property
    def status(self) -> IngestStatus:
        return self._ingest.status

    async def write(self, data: bytes) -> None:
        await self._ingest.write(data)

    async def truncate(self, offset: int) -> None:
        await self._ingest.truncate(offset)

    async def digest(self) -> str:
        return await self._ingest.digest()

    async def commit(self, size: int = 0, digest: str = "", labels: Labels = NO_LABELS) -> BlobInfo:
        if isinstance(self._ingest, LabelledIngest):
            return await self._ingest.commit_labelled(size, digest, labels)
        return await self._ingest.commit(size, digest)

    async def __aenter__(self) -> Self:
        await self._ingest.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._ingest.__aexit__(kind, error, trace)


class NoContent(ServedContent):
    """In the place of a host's content that nobody named."""

    def __init__(self) -> None:
        pass

    def _store(self, scope: Scope) -> ContentStore:
        raise InvalidArgument(
            "this differ was started without --content, so that it has nowhere to read layers from",
            hint="name the socket of the host that has them",
        )


def _info(blob: BlobInfo) -> ContentInfo:
    return ContentInfo(blob.digest, blob.size, NO_LABELS, blob.created_at, blob.updated_at)
