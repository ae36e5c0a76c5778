"""Ingests as a namespace sees them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Set
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Self

from orlopd.plugin.content import ContentStore, FileIngest, Ingest
from orlopd.plugin.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    OrlopError,
    OutOfRange,
    Unavailable,
)
from orlopd.plugin.values import NO_LABELS, BlobInfo, IngestStatus, Labels, check_digest, now

from . import blobs, graph, leases
from .db import Connection, Database, insert, to_micros
from .events import EventBus
from .gc import Collector
from .identifiers import check_labels, quoted
from .namespaces import ensure
from .scope import Scope
from .shield import shielded

log = logging.getLogger("orlopd.content")

UNLEASED = timedelta(hours=24)
"""How long an ingest is kept that no lease holds, from when it was last opened."""

_COPY = 1 << 20


class NamespacedIngest:
    """The one open writer of a ref in a namespace; a plugin ``Ingest`` whose commit takes labels too.

    An ingest of a blob that another namespace shares has no writer of its own: it stands at its end.
    Only if it is written or truncated after all are the bytes copied.
    """

    def __init__(
        self,
        db: Database,
        store: ContentStore,
        events: EventBus,
        gc: Collector,
        scope: Scope,
        ref: str,
        backend_ref: str,
        writer: Ingest | None,
        expected: str,
        total: int,
        writing: set[str],
    ) -> None:
        """:param writing: the names in the store of all ingests that have a writer; kept up to date here"""
        self._db = db
        self._store = store
        self._events = events
        self._gc = gc
        self._scope = scope
        self._ref = ref
        self._backend_ref = backend_ref
        self._writer = writer
        self._expected = expected
        self._total = total
        self._started = now()
        self._writing = writing
        if writer is not None:
            writing.add(backend_ref)

    @property
    def shared(self) -> bool:
        """Whether all bytes are there because another namespace shares them."""
        return self._writer is None

    @property
    def status(self) -> IngestStatus:
        """Where the ingest stands."""
        if self._writer is not None:
            return dataclasses.replace(self._writer.status, ref=self._ref)
        return IngestStatus(self._ref, self._total, self._total, self._expected, self._started, self._started)

    @property
    def path(self) -> str | None:
        """The local file in which the bytes are as they come, if there is one."""
        return self._writer.path if isinstance(self._writer, FileIngest) else None

    async def write(self, data: bytes) -> None:
        """Append ``data``. :raises ResourceExhausted: the disk is full; what was written before stays"""
        if not data:
            return
        writer = self._writer or await self._unshare(self._total)
        await writer.write(data)

    async def truncate(self, offset: int) -> None:
        """Drop everything from ``offset`` on. :raises OutOfRange: ``offset`` is beyond the end"""
        if self._writer is not None:
            await self._writer.truncate(offset)
            return
        if offset > self._total:
            raise OutOfRange(f"cannot truncate ingest {quoted(self._ref)} of {self._total} bytes to {offset}")
        await self._unshare(offset)

    async def _unshare(self, size: int) -> Ingest:
        # Without its row nobody would ever delete what is written now.
        if not await self._db.read(lambda conn: is_row(conn, self._scope, self._ref, self._backend_ref)):
            raise self._gone()
        try:
            writer = await self._store.ingest(self._backend_ref, total=0)
        except Unavailable:
            raise locked(self._ref) from None
        try:
            await writer.truncate(0)
            async with await self._store.open(self._expected) as reader:
                offset = 0
                while offset < size and (chunk := await reader.read_at(offset, min(_COPY, size - offset))):
                    await writer.write(chunk)
                    offset += len(chunk)
        except BaseException:
            with shielded():
                await writer.__aexit__(None, None, None)
            raise
        self._writer = writer
        self._writing.add(self._backend_ref)
        return writer

    def _gone(self) -> Aborted:
        return Aborted(f"ingest {quoted(self._ref)} is gone: aborted", resource=f"ingest {self._ref}")

    async def digest(self) -> str:
        """The sha256 digest of what was written so far, or the expected one of a shared blob."""
        return self._expected if self._writer is None else await self._writer.digest()

    async def commit(self, size: int = 0, digest: str = "", labels: Labels = NO_LABELS) -> BlobInfo:
        """Give the namespace the blob, durably; the ingest is gone then.

        :param size: the expected size; 0 is any
        :param digest: the expected digest; empty for sha256 of what came
        :raises FailedPrecondition: size or digest differ; the ingest stays
        :raises AlreadyExists: the namespace has the blob; the ingest is gone all the same
        :raises InvalidArgument: a label is malformed
        :raises NotFound: the scope's lease does not exist
        :raises ResourceExhausted: the disk is full; the ref may have to be written anew
        """
        check_labels(labels, "info.Labels")
        if digest:
            check_digest(digest)
        offset = self.status.offset
        if size and size != offset:
            raise FailedPrecondition(
                f"{quoted(self._ref)} failed size validation: {offset} != {size}: failed precondition"
            )
        if self._writer is None and digest and digest != self._expected:
            raise FailedPrecondition(
                f"{quoted(self._ref)} unexpected digest {self._expected}: failed precondition"
            )
        actual = await self.digest()
        if digest and digest != actual and digest.startswith("sha256:"):
            raise FailedPrecondition(
                f"unexpected commit digest {actual}, expected {digest}: failed precondition",
                reason="DIGEST_MISMATCH",
                resource=f"ingest {self._ref}",
            )
        actual = digest or actual
        # Not to be cancelled between the store's half and the metadata's.
        with shielded():
            blob = await self._commit(actual, offset, labels)
        fields = {"digest": blob.digest, "size": offset}
        await self._events.emit(self._scope, "/content/create", "containerd.events.ContentCreate", fields)
        return blob

    async def _commit(self, digest: str, size: int, labels: Labels) -> BlobInfo:
        async with self._gc.blobs.hold(digest):
            if self._writer is not None:
                # If the store has it, this or another namespace does; the metadata tells which.
                with suppress(AlreadyExists):
                    await self._writer.commit(size, digest)
            elif not await self._is_stored(digest):
                raise self._gone()
            blob = await self._record(digest, size, labels)
        if blob is None:
            raise AlreadyExists(f"content {digest}: already exists", resource=f"content {digest}")
        return blob

    async def _is_stored(self, digest: str) -> bool:
        try:
            await self._store.info(digest)
        except NotFound:
            return False
        return True

    async def _record(self, digest: str, size: int, labels: Labels) -> BlobInfo | None:
        namespace = self._scope.namespace

        def change(conn: Connection) -> BlobInfo | None:
            ensure(conn, namespace)
            if is_row(conn, self._scope, self._ref, self._backend_ref):
                remove(conn, self._scope, self._ref)
                if self._writer is None:
                    # What was sent before the blob was found elsewhere.
                    graph.discard(conn, graph.INGEST_STORE, self._backend_ref)
            elif self._writer is None:
                raise self._gone()
            leases.hold(conn, self._scope, "content", digest)
            if blobs.exists(conn, namespace, digest):
                return None
            return blobs.add(conn, namespace, digest, size, labels)

        try:
            return await self._db.write(change)
        except OrlopError:
            # The bytes are in the store already, and perhaps nobody's.
            self._db.owe(lambda conn: graph.discard(conn, graph.CONTENT_STORE, digest, size))
            self._gc.schedule()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writing.discard(self._backend_ref)
            await self._writer.__aexit__(kind, error, trace)


def open_row(
    conn: Connection,
    scope: Scope,
    ref: str,
    fresh_ref: str,
    expected: str,
    *,
    shared: bool,
    writing: Set[str],
) -> str | None:
    """Find or make an ingest, and have the scope's lease hold it.

    :param fresh_ref: the name in the store if it is made
    :param writing: the names in the store of the ingests that have a writer
    :returns: the name in the store, or None when the namespace has ``expected``, which is then leased
    :raises NotFound: the scope's lease does not exist
    :raises Unavailable: another writer has it open; nothing was changed
    """
    ensure(conn, scope.namespace)
    if expected and blobs.exists(conn, scope.namespace, expected):
        leases.hold(conn, scope, "content", expected)
        return None
    row = conn.execute(
        "SELECT backend_ref, expected FROM ingests WHERE namespace = ? AND ref = ?", (scope.namespace, ref)
    ).fetchone()
    kept = expected if shared else ("" if row is None else row[1])
    if row is None:
        insert(
            conn,
            "ingests",
            {
                "namespace": scope.namespace,
                "ref": ref,
                "backend_ref": fresh_ref,
                "expected": kept,
                "started_at": to_micros(now()),
            },
        )
    else:
        if kept != row[1]:
            _discard_expected(conn, row[1])
            conn.execute(
                "UPDATE ingests SET expected = ? WHERE namespace = ? AND ref = ?",
                (kept, scope.namespace, ref),
            )
    leases.hold(conn, scope, "ingests", ref)
    backend_ref = fresh_ref if row is None else str(row[0])
    if not shared and backend_ref in writing:
        raise locked(ref)
    owner = graph.node(graph.INGEST, ref)
    edges = [(owner, graph.node(graph.CONTENT, kept))] if kept else []
    # Who opened it without a lease can come back to it, whatever becomes of a later caller's lease.
    expires = graph.root_expiry(conn, scope.namespace, owner) if scope.lease else now() + UNLEASED
    graph.put(conn, scope.namespace, owner, edges, root=expires is not None, expires=expires)
    return backend_ref


def is_row(conn: Connection, scope: Scope, ref: str, backend_ref: str) -> bool:
    """Whether an ingest is still the one that the store knows as ``backend_ref``."""
    row = conn.execute(
        "SELECT 1 FROM ingests WHERE namespace = ? AND ref = ? AND backend_ref = ?",
        (scope.namespace, ref, backend_ref),
    ).fetchone()
    return row is not None


def _discard_expected(conn: Connection, expected: str) -> None:
    # The blob that it kept from deletion may be nobody's now.
    if expected:
        graph.discard(conn, graph.CONTENT_STORE, expected)


def find(conn: Connection, namespace: str, ref: str) -> str:
    """An ingest's name in the store. :raises NotFound: there is none of this ref"""
    row = conn.execute(
        "SELECT backend_ref FROM ingests WHERE namespace = ? AND ref = ?", (namespace, ref)
    ).fetchone()
    if row is None:
        raise not_found(ref)
    return str(row[0])


def remove(conn: Connection, scope: Scope, ref: str) -> None:
    """Forget an ingest; its bytes are the caller's to deal with."""
    row = conn.execute(
        "DELETE FROM ingests WHERE namespace = ? AND ref = ? RETURNING expected", (scope.namespace, ref)
    ).fetchone()
    _discard_expected(conn, row[0] if row else "")
    graph.drop(conn, scope.namespace, graph.node(graph.INGEST, ref))
    leases.let_go(conn, scope, "ingests", ref)


def forget_all_but(conn: Connection, backend_refs: Set[str]) -> None:
    """Forget the ingests whose bytes the store does not have, under none of these names."""
    # One that shares another namespace's blob has no bytes of its own.
    rows = conn.execute("SELECT namespace, ref, backend_ref FROM ingests WHERE expected = ''").fetchall()
    for namespace, ref, backend_ref in rows:
        if backend_ref not in backend_refs:
            conn.execute("DELETE FROM ingests WHERE namespace = ? AND ref = ?", (namespace, ref))
            graph.drop(conn, namespace, graph.node(graph.INGEST, ref))


def locked(ref: str) -> Unavailable:
    """The error for an ingest that another writer has open."""
    return Unavailable(f"ref {ref} locked: another writer has it open: unavailable", resource=f"ingest {ref}")


def not_found(ref: str) -> NotFound:
    """The error for an ingest that is not there."""
    return NotFound(f"reference {ref}: not found", resource=f"ingest {ref}")
