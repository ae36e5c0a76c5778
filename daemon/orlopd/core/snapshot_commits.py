"""Commits of one snapshotter: noted before the backend does its half, so that after a crash it can be told
whether that happened."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

from orlopd.plugin.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OrlopError,
    Unimplemented,
)
from orlopd.plugin.snapshots import TARGET_LABEL, RebasingSnapshotter, Snapshotter
from orlopd.plugin.values import Labels, SnapshotKind

from . import leases
from . import snapshot_rows as rows
from .db import Connection, Database
from .identifiers import quoted
from .scope import Scope
from .shield import shielded

log = logging.getLogger("orlopd.snapshots")

_INHERITED_PREFIX = "containerd.io/snapshot/"


class Commits:
    """Makes commits; the caller holds the locks."""

    def __init__(self, name: str, backend: Snapshotter, db: Database) -> None:
        self._name = name
        self._type = f"snapshots/{name}"
        self._backend = backend
        self._db = db

    async def make(self, scope: Scope, name: str, key: str, parent: str, labels: Labels) -> None:
        """See :meth:`NamespacedSnapshotter.commit`."""
        backend_name = f"{scope.namespace}/{await self._db.next_id()}/{name}"
        # Not to be cancelled between the backend's half and the metadata's.
        with shielded():
            begun = await self._db.write(
                lambda conn: self._begin(conn, scope, name, key, parent, backend_name, labels)
            )
            if begun is None:
                raise exists(f"snapshot {quoted(name)}")
            row, onto = begun
            try:
                if onto:
                    await self._onto(backend_name, row.backend_key, onto, inherited(labels))
                else:
                    await self._backend.commit(backend_name, row.backend_key, inherited(labels))
            except BaseException:
                with suppress(OrlopError):
                    await self._settle(lambda conn: self._undo(conn, scope, name))
                raise
            await self._settle(lambda conn: self._finish(conn, scope, name))

    async def _onto(self, name: str, key: str, parent: str, labels: Labels) -> None:
        backend = self._backend
        if not isinstance(backend, RebasingSnapshotter):
            raise Unimplemented(
                f"snapshotter {self._name} cannot change a snapshot's parent: not implemented"
            )
        await backend.commit_onto(name, key, parent, labels)

    async def _settle(self, change: Callable[[Connection], None]) -> None:
        """Write what follows from what the backend did; later at the latest if that does not work now.

        :raises OrlopError: it does not work now
        """
        try:
            await self._db.write(change)
        except OrlopError:
            self._db.owe(change)
            raise

    def _begin(
        self,
        conn: Connection,
        scope: Scope,
        name: str,
        key: str,
        parent: str,
        backend_name: str,
        labels: Labels,
    ) -> tuple[rows.Row, str] | None:
        """Note the commit; the active snapshot, and the backend's key of the parent that it gets."""
        leases.hold(conn, scope, self._type, name)
        if rows.find(conn, scope.namespace, self._name, name) is not None:
            # Told, not raised: the lease on what is there must survive the transaction.
            return None
        row = rows.get(conn, scope.namespace, self._name, key)
        if row.kind is not SnapshotKind.ACTIVE:
            raise FailedPrecondition(
                f"snapshot {key} is not active: failed precondition", resource=f"snapshot {key}"
            )
        onto = ""
        if parent and parent != row.parent:
            onto = self._find_new_parent(conn, row, parent)
        rows.begin_commit(conn, row, name, parent or row.parent, backend_name, labels)
        return row, onto

    def _find_new_parent(self, conn: Connection, row: rows.Row, parent: str) -> str:
        if row.parent:
            raise InvalidArgument(
                f"cannot change parent of active snapshot {quoted(row.key)} on commit: invalid argument",
                resource=f"snapshot {row.key}",
            )
        found = rows.find(conn, row.namespace, self._name, parent)
        if found is None:
            raise no_parent(parent)
        if found.kind is not SnapshotKind.COMMITTED:
            raise FailedPrecondition(
                f"parent snapshot {parent} is not committed: failed precondition",
                resource=f"snapshot {parent}",
            )
        return found.backend_key

    def _finish(self, conn: Connection, scope: Scope, name: str) -> None:
        commit = rows.end_commit(conn, scope.namespace, self._name, name)
        if commit is not None:
            rows.replace(conn, commit)
            leases.let_go(conn, scope, self._type, commit.key)

    def _undo(self, conn: Connection, scope: Scope, name: str) -> None:
        rows.undo_commit(conn, scope.namespace, self._name, name)
        leases.let_go(conn, scope, self._type, name)

    async def recover(self) -> None:
        """Finish or undo the commits that an earlier daemon left half done."""
        for commit in await self._db.read(lambda conn: rows.commits(conn, self._name)):
            try:
                await self._backend.stat(commit.backend_name)
                happened = True
            except NotFound:
                happened = False
            except OrlopError as error:
                log.warning("cannot tell whether snapshot %s was committed: %s", commit.name, error)
                continue
            log.info(
                "commit of snapshot %s was cut short, %s it",
                commit.name,
                "finishing" if happened else "undoing",
            )

            def settle(conn: Connection, commit: rows.Commit = commit, happened: bool = happened) -> None:
                if happened:
                    self._finish(conn, Scope(commit.namespace), commit.name)
                else:
                    rows.undo_commit(conn, commit.namespace, self._name, commit.name)

            await self._db.write(settle)


def no_parent(key: str) -> NotFound:
    """The error for a parent that is not there."""
    return NotFound(f"parent snapshot {key} does not exist: not found", resource=f"snapshot {key}")


def exists(what: str) -> AlreadyExists:
    """The error for something that is there."""
    return AlreadyExists(f"{what}: already exists")


def is_inherited(key: str) -> bool:
    """Whether the backend is told of a label."""
    return key == TARGET_LABEL or key.startswith(_INHERITED_PREFIX)


def inherited(labels: Labels) -> Labels:
    """The labels that the backend is told of."""
    # The rest is the metadata's business, and would only grow stale in the backend.
    return {key: value for key, value in labels.items() if is_inherited(key)}
