"""Content by digest, as each namespace sees it, over one store that shares the bytes among all."""

from __future__ import annotations

import dataclasses
import enum
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from itertools import islice

from orlopd.plugin.content import BlobReader, ContentStore
from orlopd.plugin.errors import AlreadyExists, NotFound, OrlopError, ResourceExhausted, Unavailable
from orlopd.plugin.values import NO_LABELS, IngestStatus, Labels, check_digest, now, sha256

from . import blobs, graph, ingests, leases
from .blobs import ContentInfo
from .db import Connection, Database, dump_labels, load_labels, readable
from .events import EventBus
from .filters import parse
from .gc import Collector
from .identifiers import check_labels, check_name, check_namespace
from .ingests import NamespacedIngest
from .masks import select
from .namespaces import SHAREABLE_LABEL, ensure
from .scope import Scope
from .shield import shielded

__all__ = ["Content", "ContentInfo", "NamespacedIngest", "Sharing"]

log = logging.getLogger("orlopd.content")

PAGE = 500


class Sharing(enum.Enum):
    """Who may have a blob that another namespace brought, by naming its digest."""

    SHARED = "shared"
    """Everybody."""
    ISOLATED = "isolated"
    """Who sends the bytes; and everybody, where a namespace labelled as shareable has it."""


class Content:
    """Blobs and ingests of a scope's namespace. A scope's lease holds each that a call makes or finds."""

    def __init__(
        self,
        db: Database,
        store: ContentStore,
        events: EventBus,
        gc: Collector,
        *,
        sharing: Sharing = Sharing.SHARED,
    ) -> None:
        self._db = db
        self._store = store
        self._events = events
        self._gc = gc
        self._sharing = sharing
        self._writing: set[str] = set()

    async def recover(self) -> None:
        """Forget ingests that a daemon recorded, and died before the store had them; at the start alone."""
        try:
            there = {status.ref async for status in self._store.ingests()}
        except OrlopError as error:
            log.warning("cannot look for ingests that were never begun: %s", error)
            return
        await self._db.write(lambda conn: ingests.forget_all_but(conn, there))

    async def info(self, scope: Scope, digest: str) -> ContentInfo:
        """What is known of a blob.

        :raises NotFound: this namespace has no such blob
        :raises InvalidArgument: the digest is malformed
        """
        check_digest(digest)
        return await self._db.read(lambda conn: blobs.get(conn, scope.namespace, digest))

    async def find(self, scope: Scope, digest: str) -> bool:
        """Whether this namespace has a blob; if so, the scope's lease holds it from now on.

        :raises InvalidArgument: the digest is malformed
        :raises NotFound: the scope's lease does not exist
        """
        check_digest(digest)

        def hold(conn: Connection) -> bool:
            if not blobs.exists(conn, scope.namespace, digest):
                return False
            leases.hold(conn, scope, "content", digest)
            return True

        found = await self._db.read(lambda conn: blobs.exists(conn, scope.namespace, digest))
        return await self._db.write(hold) if found and scope.lease else found

    async def walk(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[ContentInfo]:
        """Every blob by digest. Filters know ``digest`` and ``labels.KEY``.

        Reads page by page, so that memory stays flat; what changes meanwhile may or may not be seen.

        :raises InvalidArgument: a filter is malformed
        """
        wanted = parse(filters)
        after = ""
        while True:

            def page(conn: Connection, after: str = after) -> list[ContentInfo]:
                rows = conn.execute(
                    f"SELECT {blobs.COLUMNS} FROM contents WHERE namespace = ? AND digest > ? "
                    "ORDER BY digest",
                    (scope.namespace, after),
                )
                return list(islice(readable(blobs.from_row, rows), PAGE))

            infos = await self._db.read(page)
            for info in infos:
                if wanted.match(blobs.adapt(info)):
                    yield info
            if len(infos) < PAGE:
                return
            after = infos[-1].digest

    async def update(self, scope: Scope, info: ContentInfo, paths: Sequence[str] = ()) -> ContentInfo:
        """Change a blob's labels: all of them, or those that ``paths`` name as ``labels.KEY``.

        :raises NotFound: this namespace has no such blob
        :raises InvalidArgument: a path or a label is malformed
        """
        check_digest(info.digest)

        def change(conn: Connection) -> ContentInfo:
            current = blobs.get(conn, scope.namespace, info.digest)
            fields = select(
                f"content {info.digest}",
                paths or ("labels",),
                {"labels": current.labels},
                {"labels": info.labels},
            )
            labels = load_labels(dump_labels(check_labels(fields["labels"], "info.Labels")))
            changed = ContentInfo(info.digest, current.size, labels, current.created_at, now())
            blobs.set_labels(conn, scope.namespace, changed)
            return changed

        return await self._db.write(change)

    async def delete(self, scope: Scope, digest: str) -> None:
        """Forget a blob in this namespace. The bytes go when no namespace has it any more.

        :raises NotFound: this namespace has no such blob
        """
        check_digest(digest)

        def change(conn: Connection) -> None:
            blobs.remove(conn, scope.namespace, digest)
            leases.let_go(conn, scope, "content", digest)

        await self._db.write(change)
        self._gc.schedule()
        await self._events.emit(
            scope, "/content/delete", "containerd.events.ContentDelete", {"digest": digest}
        )

    async def share(
        self, scope: Scope, other: Scope, digests: Sequence[str], labels: Sequence[str] = ()
    ) -> None:
        """Give ``other`` blobs of ``scope``, which its lease then holds; all of them or none.

        :param labels: how the keys of labels begin that it gets as well
        :raises NotFound: ``scope`` has no such blob any more
        """
        check_namespace(other.namespace)
        beginnings = tuple(labels)

        def change(conn: Connection) -> list[ContentInfo]:
            ensure(conn, other.namespace)
            added: list[ContentInfo] = []
            for digest in digests:
                info = blobs.get(conn, scope.namespace, digest)
                kept = {key: value for key, value in info.labels.items() if key.startswith(beginnings)}
                if not blobs.exists(conn, other.namespace, digest):
                    blobs.add(conn, other.namespace, digest, info.size, kept)
                    added.append(info)
                else:
                    current = blobs.get(conn, other.namespace, digest)
                    if kept.items() - current.labels.items():
                        both = {**kept, **current.labels}
                        blobs.set_labels(
                            conn, other.namespace, dataclasses.replace(current, labels=both, updated_at=now())
                        )
                leases.hold(conn, other, "content", digest)
            return added

        for info in await self._db.write(change):
            fields = {"digest": info.digest, "size": info.size}
            await self._events.emit(other, "/content/create", "containerd.events.ContentCreate", fields)

    async def open(self, scope: Scope, digest: str) -> BlobReader:
        """Open a blob for reading. :raises NotFound: this namespace has no such blob"""
        await self.info(scope, digest)
        return await self._store.open(digest)

    async def read_blob(self, scope: Scope, digest: str, limit: int) -> bytes:
        """A whole blob of at most ``limit`` bytes, for manifests and the like.

        :raises NotFound: this namespace has no such blob
        :raises ResourceExhausted: it is larger
        """
        async with await self.open(scope, digest) as reader:
            if reader.size > limit:
                raise ResourceExhausted(
                    f"content {digest} has {reader.size} bytes, at most {limit} are read at once",
                    resource=f"content {digest}",
                )
            data = bytearray()
            while chunk := await reader.read_at(len(data), reader.size - len(data)):
                data += chunk
        return bytes(data)

    async def add_blob(
        self, scope: Scope, ref: str, data: bytes, *, digest: str = "", labels: Labels = NO_LABELS
    ) -> ContentInfo:
        """Bring in a whole blob, or find it there already; then its labels are added to those it has.

        :param ref: the ingest to use; what is left in it is dropped
        :raises FailedPrecondition: ``data`` has another digest
        :raises Unavailable: somebody else has the ingest open
        """
        digest = digest or sha256(data)
        try:
            async with await self.ingest(scope, ref, total=len(data), expected=digest) as ingest:
                if not ingest.shared:
                    await ingest.truncate(0)
                    await ingest.write(data)
                await ingest.commit(len(data), digest, labels)
        except AlreadyExists:
            if labels:
                paths = [f"labels.{key}" for key in labels]
                return await self.update(scope, ContentInfo(digest, labels=labels), paths)
        return await self.info(scope, digest)

    async def ingest(self, scope: Scope, ref: str, *, total: int = 0, expected: str = "") -> NamespacedIngest:
        """Open the one writer of ``ref``: a new ingest, or one where the last writer left it.

        Where ``expected`` names a blob that another namespace has and sharing allows it, the ingest
        stands at its end without a byte sent.

        :param total: the size to come in bytes; 0 when not known
        :param expected: the digest to come; empty when not known
        :raises AlreadyExists: this namespace has the expected blob
        :raises Unavailable: another writer has this ref open
        :raises NotFound: the scope's lease does not exist
        """
        check_namespace(scope.namespace)
        check_name(ref, "ref")
        if expected:
            check_digest(expected)
        fresh_ref = f"{scope.namespace}/{await self._db.next_id()}/{ref}"
        # Under the lock of its digest, so that a blob found in the store is not collected before it is noted.
        async with self._gc.blobs.hold(*([expected] if expected else [])):
            shared_size = await self._shared_size(expected, total)
            shared = shared_size is not None
            backend_ref = await self._db.write(
                lambda conn: ingests.open_row(
                    conn, scope, ref, fresh_ref, expected, shared=shared, writing=self._writing
                )
            )
        if backend_ref is None:
            raise AlreadyExists(f"content {expected}: already exists", resource=f"content {expected}")
        writer = None
        if not shared:
            # Without the digest: what others have in the store is none of this one's business.
            try:
                writer = await self._store.ingest(backend_ref, total=total)
            except Unavailable:
                raise ingests.locked(ref) from None
            except BaseException:
                if backend_ref == fresh_ref:
                    with shielded():
                        await self._abort(scope, ref)
                raise
        return NamespacedIngest(
            self._db,
            self._store,
            self._events,
            self._gc,
            scope,
            ref,
            backend_ref,
            writer,
            expected,
            total if shared_size is None else shared_size,
            self._writing,
        )

    async def _shared_size(self, expected: str, total: int) -> int | None:
        if not expected:
            return None
        if self._sharing is Sharing.ISOLATED and not await self._db.read(
            lambda conn: _shareable(conn, expected)
        ):
            return None
        try:
            size = (await self._store.info(expected)).size
        except NotFound:
            return None
        return size if total in {0, size} else None

    async def status(self, scope: Scope, ref: str) -> IngestStatus:
        """Where an ingest stands. :raises NotFound: there is none of this ref"""
        backend_ref = await self._db.read(lambda conn: ingests.find(conn, scope.namespace, ref))
        try:
            return dataclasses.replace(await self._store.status(backend_ref), ref=ref)
        except NotFound:
            raise ingests.not_found(ref) from None

    async def statuses(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[IngestStatus]:
        """All ingests by ref; filters know ``ref``. :raises InvalidArgument: a malformed filter"""
        wanted = parse(filters)
        rows = await self._db.read(
            lambda conn: conn.execute(
                "SELECT ref, backend_ref FROM ingests WHERE namespace = ? ORDER BY ref", (scope.namespace,)
            ).fetchall()
        )
        found: list[IngestStatus] = []
        for ref, backend_ref in rows:
            if wanted.match(lambda path, ref=ref: ref if path[0] == "ref" else None):
                try:
                    found.append(dataclasses.replace(await self._store.status(backend_ref), ref=ref))
                except NotFound:
                    continue
        return found

    async def abort(self, scope: Scope, ref: str) -> None:
        """Forget an ingest and its bytes. :raises NotFound: there is none of this ref"""
        with shielded():
            await self._abort(scope, ref)

    async def _abort(self, scope: Scope, ref: str) -> None:
        def change(conn: Connection) -> str:
            backend_ref = ingests.find(conn, scope.namespace, ref)
            ingests.remove(conn, scope, ref)
            # Should the daemon die before the store has done its part, the collector does it.
            graph.discard(conn, graph.INGEST_STORE, backend_ref)
            return backend_ref

        backend_ref = await self._db.write(change)
        with suppress(NotFound):
            await self._store.abort(backend_ref)


def _shareable(conn: Connection, digest: str) -> bool:
    rows = conn.execute(
        "SELECT n.labels FROM namespaces n JOIN contents c ON c.namespace = n.name WHERE c.digest = ?",
        (digest,),
    )
    found = readable(lambda row: load_labels(row[0]), rows)
    return any(labels.get(SHAREABLE_LABEL) == "true" for labels in found)
