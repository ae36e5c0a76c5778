"""One snapshotter as each namespace sees it.

A backend knows a snapshot as ``NAMESPACE/NUMBER/KEY``, and no number is ever used again.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence

from orlopd.plugin.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
)
from orlopd.plugin.snapshots import TARGET_LABEL, RecoveringSnapshotter, Snapshotter, rebases
from orlopd.plugin.values import NO_LABELS, Labels, Mount, SnapshotInfo, SnapshotKind, Usage, now

from . import graph, leases
from . import snapshot_rows as rows
from .db import Connection, Database, dump_labels, load_labels
from .events import EventBus
from .filters import parse
from .gc import Collector
from .identifiers import check_labels, check_name, check_namespace, quoted
from .locks import KeyedLocks
from .masks import select
from .namespaces import ensure
from .scope import Scope
from .shield import shielded
from .snapshot_commits import Commits, exists, inherited, is_inherited, no_parent

log = logging.getLogger("orlopd.snapshots")

_PAGE = 200


class NamespacedSnapshotter:
    """One snapshotter, by the keys of a scope's namespace. A scope's lease holds each that a call makes."""

    def __init__(
        self, name: str, backend: Snapshotter, db: Database, events: EventBus, gc: Collector
    ) -> None:
        self.name = name
        self._type = f"snapshots/{name}"
        self._backend = backend
        self._db = db
        self._events = events
        self._gc = gc
        self._locks = KeyedLocks()
        self._commits = Commits(name, backend, db)

    async def stat(self, scope: Scope, key: str) -> SnapshotInfo:
        """What is known of a snapshot. :raises NotFound: there is none of this key"""
        row = await self._get(scope, key)
        return rows.info(row, await self._stat(row))

    async def _stat(self, row: rows.Row) -> SnapshotInfo:
        try:
            return await self._backend.stat(row.backend_key)
        except NotFound:
            raise rows.not_found(row.key) from None

    async def update(self, scope: Scope, info: SnapshotInfo, paths: Sequence[str] = ()) -> SnapshotInfo:
        """Change a snapshot's labels: all of them, or those that ``paths`` name as ``labels.KEY``.

        :raises NotFound: there is none of this key
        :raises InvalidArgument: a path or a label is malformed
        """
        if not info.name:
            raise InvalidArgument("snapshot name must not be empty: invalid argument")

        def change(conn: Connection) -> rows.Row:
            row = rows.get(conn, scope.namespace, self.name, info.name)
            current, wanted = {"labels": row.labels}, {"labels": info.labels}
            fields = select(f"snapshot {quoted(info.name)}", paths or ("labels",), current, wanted)
            labels = load_labels(dump_labels(check_labels(fields["labels"], "info.Labels")))
            return rows.set_labels(conn, row, labels, now())

        async with self._locks.hold(_lock(scope, info.name)):
            found = await self._stat(await self._get(scope, info.name))
            with shielded():
                row = await self._db.write(change)
                # What the backend has of its own stays.
                labels = {key: value for key, value in found.labels.items() if not is_inherited(key)}
                labels |= inherited(row.labels)
                if labels != found.labels:
                    found = await self._backend.set_labels(row.backend_key, labels)
        return rows.info(row, found)

    async def walk(self, scope: Scope, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]:
        """Every snapshot by key, read page by page.

        Filters know ``name``, ``parent``, ``kind`` and ``labels.KEY``.

        :raises InvalidArgument: a filter is malformed
        """
        wanted = parse(filters)
        after = ""
        while True:

            def page(conn: Connection, after: str = after) -> list[rows.Row]:
                return rows.page(conn, scope.namespace, self.name, after, _PAGE)

            found = await self._db.read(page)
            for row in found:
                info = rows.info(row)
                if wanted.match(rows.adapt(info)):
                    yield info
            if len(found) < _PAGE:
                return
            after = found[-1].key

    async def usage(self, scope: Scope, key: str) -> Usage:
        """What a snapshot itself takes. :raises NotFound: there is none of this key"""
        row = await self._get(scope, key)
        try:
            return await self._backend.usage(row.backend_key)
        except NotFound:
            raise rows.not_found(key) from None

    async def mounts(self, scope: Scope, key: str) -> Sequence[Mount]:
        """The mounts of an active snapshot or a view.

        :raises NotFound: there is none of this key
        :raises FailedPrecondition: it is committed
        """
        row = await self._get(scope, key)
        if row.kind is SnapshotKind.COMMITTED:
            raise FailedPrecondition(
                f"snapshot {key} is committed and cannot be mounted: failed precondition",
                resource=f"snapshot {key}",
                hint="make a view of it",
            )
        try:
            return await self._backend.mounts(row.backend_key)
        except NotFound:
            raise rows.not_found(key) from None

    async def prepare(
        self, scope: Scope, key: str, parent: str = "", labels: Labels = NO_LABELS
    ) -> Sequence[Mount]:
        """Make a writable snapshot on a committed one ("" for an empty one).

        :raises AlreadyExists: ``key`` names a snapshot, or the target that the labels name is there
        :raises NotFound: ``parent`` names none, or the scope's lease does not exist
        :raises InvalidArgument: the key or a label is malformed, or ``parent`` is not committed
        """
        mounts = await self._create(scope, key, parent, labels, SnapshotKind.ACTIVE)
        fields = {"key": key, "parent": parent, "snapshotter": self.name}
        await self._events.emit(scope, "/snapshot/prepare", "containerd.events.SnapshotPrepare", fields)
        return mounts

    async def view(
        self, scope: Scope, key: str, parent: str = "", labels: Labels = NO_LABELS
    ) -> Sequence[Mount]:
        """Make a read-only snapshot. Raises as prepare."""
        return await self._create(scope, key, parent, labels, SnapshotKind.VIEW)

    async def _create(
        self, scope: Scope, key: str, parent: str, labels: Labels, kind: SnapshotKind
    ) -> Sequence[Mount]:
        check_namespace(scope.namespace)
        check_name(key, "snapshot key")
        check_labels(labels, "info.Labels")
        target = labels.get(TARGET_LABEL, "")
        async with self._locks.hold(_lock(scope, key), *([_lock(scope, target)] if target else [])):
            backend_parent = await self._check_new(scope, key, target, parent)
            backend_key = f"{scope.namespace}/{await self._db.next_id()}/{key}"
            row = rows.Row(
                scope.namespace, self.name, key, backend_key, kind, parent, load_labels(dump_labels(labels))
            )
            make = self._backend.prepare if kind is SnapshotKind.ACTIVE else self._backend.view
            self._gc.unrecorded.add((self.name, backend_key))
            try:
                mounts = await make(backend_key, backend_parent, inherited(labels))
                with shielded():
                    await self._db.write(lambda conn: self._record(conn, scope, row, backend_parent))
                self._gc.unrecorded.discard((self.name, backend_key))
                return mounts
            except BaseException as error:
                self._gc.unrecorded.discard((self.name, backend_key))
                if isinstance(error, AlreadyExists) and target:
                    await self._adopt(scope, target, parent, backend_parent, labels)
                    raise exists(f"target snapshot {quoted(target)}") from None
                self._discard(backend_key)
                if isinstance(error, AlreadyExists):
                    raise Internal(f"snapshotter {self.name} has {backend_key} already: {error}") from error
                raise

    async def _check_new(self, scope: Scope, key: str, target: str, parent: str) -> str:
        def find(conn: Connection) -> Sequence[rows.Row | None]:
            return [
                rows.find(conn, scope.namespace, self.name, name) if name else None
                for name in (target, key, parent)
            ]

        found_target, found_key, found = await self._db.read(find)
        taken = found_target or found_key
        if taken is not None:
            # The caller will use what is there, so its lease holds that.
            await self._db.write(lambda conn: leases.hold(conn, scope, self._type, taken.key))
            raise exists(f"{'target snapshot' if taken is found_target else 'snapshot'} {quoted(taken.key)}")
        if not parent:
            return ""
        if found is None:
            raise no_parent(parent)
        if found.kind is not SnapshotKind.COMMITTED:
            raise InvalidArgument(
                f"parent snapshot {parent} is not committed: invalid argument",
                resource=f"snapshot {parent}",
            )
        return found.backend_key

    def _record(self, conn: Connection, scope: Scope, row: rows.Row, backend_parent: str) -> None:
        ensure(conn, scope.namespace)
        if row.parent:
            # It may have been removed, and even made anew, while the backend worked.
            parent = rows.find(conn, scope.namespace, self.name, row.parent)
            if parent is None or parent.backend_key != backend_parent:
                raise NotFound(
                    f"parent snapshot {row.parent} does not exist any more: not found",
                    resource=f"snapshot {row.parent}",
                )
        rows.add(conn, row)
        leases.hold(conn, scope, self._type, row.key)

    async def _adopt(
        self, scope: Scope, target: str, parent: str, backend_parent: str, labels: Labels
    ) -> None:
        """Take the committed snapshot that the backend has for ``target`` into the namespace."""
        async for info in self._backend.walk():
            if (
                info.kind is SnapshotKind.COMMITTED
                and info.labels.get(TARGET_LABEL) == target
                and info.parent == backend_parent
            ):
                break
        else:
            raise NotFound(f"target snapshot {quoted(target)} in snapshotter {self.name}: not found")
        row = rows.Row(
            scope.namespace,
            self.name,
            target,
            info.name,
            SnapshotKind.COMMITTED,
            parent,
            {**info.labels, **labels},
            info.created_at,
            info.updated_at,
        )
        await self._db.write(lambda conn: self._record(conn, scope, row, backend_parent))

    def _discard(self, backend_key: str) -> None:
        """Have the collector remove what the backend made, or half made, and nobody will know."""
        self._db.owe(lambda conn: graph.discard(conn, graph.snapshot_store(self.name), backend_key))
        self._gc.schedule()

    async def commit(
        self, scope: Scope, name: str, key: str, labels: Labels = NO_LABELS, *, parent: str = ""
    ) -> None:
        """Turn the active snapshot ``key`` into the committed one ``name``; ``key`` is gone then.

        :param parent: a parent for a snapshot that was prepared without one, if :attr:`rebases`
        :raises AlreadyExists: ``name`` names a snapshot
        :raises NotFound: ``key`` or ``parent`` names none, or the scope's lease does not exist
        :raises FailedPrecondition: ``key`` is not active, or ``parent`` not committed
        :raises InvalidArgument: ``key`` has another parent
        :raises Unimplemented: it would get a parent, and the snapshotter cannot do that
        :raises ResourceExhausted: the disk is full; what the backend has done by then is not undone, so that
            doing it again may find ``name`` there
        """
        check_name(name, "snapshot name")
        check_labels(labels, "info.Labels")
        labels = load_labels(dump_labels(labels))
        keys = [_lock(scope, each) for each in (name, key, parent) if each]
        async with self._locks.hold(*keys):
            await self._commits.make(scope, name, key, parent, labels)
        fields = {"key": key, "name": name, "snapshotter": self.name}
        await self._events.emit(scope, "/snapshot/commit", "containerd.events.SnapshotCommit", fields)

    @property
    def rebases(self) -> bool:
        """Whether a snapshot prepared without a parent may get one at commit."""
        return rebases(self._backend)

    async def remove(self, scope: Scope, key: str) -> None:
        """Remove a snapshot; the collector removes its files.

        :raises NotFound: there is none of this key
        :raises FailedPrecondition: it has children
        """

        def change(conn: Connection) -> None:
            row = rows.get(conn, scope.namespace, self.name, key)
            if rows.has_children(conn, row):
                raise FailedPrecondition(
                    "cannot remove snapshot with child: failed precondition",
                    reason="SNAPSHOT_HAS_CHILDREN",
                    resource=f"snapshot {key}",
                )
            rows.remove(conn, row)
            leases.let_go(conn, scope, self._type, key)

        async with self._locks.hold(_lock(scope, key)):
            await self._db.write(change)
        self._gc.schedule()
        fields = {"key": key, "snapshotter": self.name}
        await self._events.emit(scope, "/snapshot/remove", "containerd.events.SnapshotRemove", fields)

    async def cleanup(self, scope: Scope) -> None:
        """Have the backend delete what earlier removals and crashes left behind."""
        await self._backend.cleanup()

    async def recover(self) -> None:
        """See :meth:`Snapshots.recover`."""
        await self._commits.recover()
        lost = await self._backend.lost() if isinstance(self._backend, RecoveringSnapshotter) else ()
        if lost:
            log.warning(
                "%d snapshots of %s were not on the disk yet when the machine went down; "
                "layers are unpacked again when they are needed",
                len(lost),
                self.name,
            )
            await self._db.write(lambda conn: rows.forget(conn, self.name, lost))

    async def _get(self, scope: Scope, key: str) -> rows.Row:
        return await self._db.read(lambda conn: rows.get(conn, scope.namespace, self.name, key))


def _lock(scope: Scope, key: str) -> str:
    return f"{scope.namespace}/{key}"
