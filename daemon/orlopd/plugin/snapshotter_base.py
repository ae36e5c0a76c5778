"""A snapshotter's bookkeeping, so that a plugin writes directories and mounts only.

A subclass says how a snapshot's folder is filled and how it is mounted::

    class Copies(SnapshotterBase):
        def make(self, snapshot: Snapshot) -> None:
            if snapshot.parents:
                copy(snapshot.parents[0] / "fs", snapshot.path / "fs")
            else:
                (snapshot.path / "fs").mkdir(mode=0o755)

        def mount_points(self, snapshot: Snapshot) -> Sequence[Mount]:
            mode = "rw" if snapshot.kind is SnapshotKind.ACTIVE else "ro"
            return [Mount("bind", str(snapshot.path / "fs"), ("rbind", mode))]

Keys, parents, labels and times are in a SQLite database in the plugin's root, one transaction a change.
A folder is there before its row and goes after it, so a crash leaves folders without a row at most;
the next start finds them and :meth:`SnapshotterBase.cleanup` deletes them.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from anyio.abc import TaskGroup

from ._snapshot_book import Book, Snapshot
from ._snapshot_sync import Settler
from .files import disk_usage, remove_tree
from .snapshots import SnapshotFault
from .threads import Threads
from .values import NO_LABELS, Labels, Mount, SnapshotInfo, SnapshotKind, Usage

__all__ = ["Snapshot", "SnapshotterBase"]

T = TypeVar("T")
_THREADS = 16


class SnapshotterBase:
    """Base of snapshotters that keep a folder for each snapshot. Implements
    :class:`orlopd.plugin.snapshots.Snapshotter`.

    The methods to override run in threads, several at once; they may raise OSError.

    :param root: the plugin's own folder (``context.root``)
    """

    rebases = False
    """Whether :meth:`rebase` is there, so that a snapshot may get its parent at commit."""

    def __init__(self, root: Path) -> None:
        self._book = Book(root, self)
        self._db = self._book.db
        self._threads = Threads(_THREADS)
        self._settler: Settler | None = None
        self._trusted = False

    def sync_behind(self, state: Path, tasks: TaskGroup) -> None:
        """Write layers to the disk behind their commit, if the host asks for what got :meth:`lost`.

        :param state: a folder that a reboot empties (``context.state``)
        :param tasks: owner of the writing (``context.tasks``)
        """
        behind = self._book.write_behind(state)
        self._settler = Settler(behind, tasks, self._run, self._book.measure_committed)

    # What a subclass says.

    def make(self, snapshot: Snapshot) -> None:
        """Fill the folder ``snapshot.path``, which is there and empty. On an error it is dropped again.

        Its directories' own entries are made durable afterwards; the contents of files are not.
        """
        raise NotImplementedError

    def mount_points(self, snapshot: Snapshot) -> Sequence[Mount]:
        """How to mount an active snapshot or a view. Called often; does nothing but say it."""
        raise NotImplementedError

    def measure(self, snapshot: Snapshot) -> Usage:
        """What the snapshot itself takes on disk."""
        return disk_usage(snapshot.path)

    def seal(self, snapshot: Snapshot) -> None:
        """Called before an active snapshot becomes a committed one; to convert or to freeze it.

        What it writes below ``snapshot.path`` is made durable with all the rest.
        """

    def settled(self, snapshot: Snapshot) -> None:
        """Called once a snapshot is committed for good, and for every committed one at :meth:`cleanup`: what
        only an active one needs may go."""

    def rebase(self, snapshot: Snapshot) -> None:
        """Called ahead of :meth:`seal` where a snapshot made without parents is committed onto
        ``snapshot.parents``; only if :attr:`rebases`. It may be called again after a failure."""
        raise NotImplementedError

    def drop(self, path: Path) -> None:
        """Delete a snapshot's folder and what belongs to it; a half-made one too."""
        remove_tree(path)

    # The contract.

    async def stat(self, key: str) -> SnapshotInfo:
        return await self._run(lambda: self._db.get(key).info())

    async def set_labels(self, key: str, labels: Labels) -> SnapshotInfo:
        return await self._run(lambda: self._db.set_labels(key, labels).info())

    async def walk(self) -> AsyncIterator[SnapshotInfo]:
        last = 0
        while rows := await self._run(functools.partial(self._db.page, last)):
            for row in rows:
                yield row.info()
            last = rows[-1].rank

    async def usage(self, key: str) -> Usage:
        return await self._run(lambda: self._book.usage(key))

    async def mounts(self, key: str) -> Sequence[Mount]:
        return await self._run(lambda: self._book.mounts(key))

    async def prepare(self, key: str, parent: str, labels: Labels = NO_LABELS) -> Sequence[Mount]:
        return await self._run(lambda: self._book.create(SnapshotKind.ACTIVE, key, parent, labels))

    async def view(self, key: str, parent: str, labels: Labels = NO_LABELS) -> Sequence[Mount]:
        return await self._run(lambda: self._book.create(SnapshotKind.VIEW, key, parent, labels))

    async def commit(self, name: str, key: str, labels: Labels = NO_LABELS) -> None:
        await self.commit_onto(name, key, "", labels)

    async def commit_onto(self, name: str, key: str, parent: str, labels: Labels = NO_LABELS) -> None:
        late = self._trusted
        if await self._run(lambda: self._book.commit(name, key, parent, labels, late=late)) and self._settler:
            self._settler.notice()

    async def lost(self) -> Sequence[str]:
        settler = self._settler
        found = await self._run(settler.behind.lost if settler else lambda: self._db.unsynced_but(""))
        self._trusted = True
        return found

    async def remove(self, key: str) -> None:
        await self._run(lambda: self._book.remove(key))

    async def cleanup(self) -> None:
        tidy = type(self).settled is not SnapshotterBase.settled
        await self._run(lambda: self._book.cleanup(tidy=tidy))

    async def faults(self) -> Sequence[SnapshotFault]:
        """Folders that belong to no snapshot, and snapshots whose folder is gone."""
        return await self._run(self._book.faults)

    def close(self) -> None:
        """Called when the daemon stops. What it overrides calls this one at last."""
        if self._settler:
            self._settler.settle()
        self._db.close()

    async def aclose(self) -> None:
        """See :meth:`close`."""
        await self._run(self.close)
        await self._threads.aclose()

    async def _run(self, job: Callable[[], T]) -> T:
        return await self._threads.run(job)
