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
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup

from ._snapshot_db import Row, SnapshotDatabase
from ._snapshot_folders import Folders
from ._snapshot_sync import Behind
from .errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OrlopError,
    Unimplemented,
)
from .files import disk_usage, explain, remove_tree, sync_filesystem
from .snapshots import TARGET_LABEL, SnapshotFault
from .threads import Threads
from .values import NO_LABELS, Labels, Mount, SnapshotInfo, SnapshotKind, Usage

T = TypeVar("T")
_THREADS = 16
_CHAINS = 256
_QUIET_SECONDS = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a subclass gets to know of a snapshot.

    ``id`` is its number, never used twice; ``path`` its own folder, mode 0700; ``parents`` the folders of
    the snapshots below, nearest first.
    """

    id: int
    key: str
    kind: SnapshotKind
    path: Path
    parents: tuple[Path, ...] = ()
    labels: Labels = field(default_factory=lambda: NO_LABELS)


class SnapshotterBase:
    """Base of snapshotters that keep a folder for each snapshot. Implements
    :class:`orlopd.plugin.snapshots.Snapshotter`.

    The methods to override run in threads, several at once; they may raise OSError.

    :param root: the plugin's own folder (``context.root``)
    """

    rebases = False
    """Whether :meth:`rebase` is there, so that a snapshot may get its parent at commit."""

    def __init__(self, root: Path) -> None:
        self._folders = Folders(root, lambda path: self.drop(path))
        self._db = SnapshotDatabase(root / "snapshots.db")
        # What is below a committed one stays the same, and no number comes twice.
        self._lineage = functools.lru_cache(_CHAINS)(self._find_lineage)
        self._lock = threading.Lock()
        self._making: set[int] = set()
        self._pinned: Counter[int] = Counter()
        self._threads = Threads(_THREADS)
        self._behind: Behind | None = None
        self._tasks: TaskGroup | None = None
        self._trusted = False
        self._late = 0
        self._catching = False
        # A number whose snapshot was never recorded may be in use as a folder's name all the same.
        self._last = max(self._db.last_id(), self._folders.last())
        self._discard_orphans()

    def sync_behind(self, state: Path, tasks: TaskGroup) -> None:
        """Write layers to the disk behind their commit, if the host asks for what got :meth:`lost`.

        :param state: a folder that a reboot empties (``context.state``)
        :param tasks: owner of the writing (``context.tasks``)
        """
        self._behind = Behind(self._db, self._folders.top, state)
        self._tasks = tasks
        begun = self._db.begun_before(self._behind.mark)
        self._db.set_unsynced([each for each in begun if self._folders.path(each).is_dir()], None)

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
        def job() -> Usage:
            row = self._db.get(key)
            if row.usage is not None:
                return row.usage
            if row.kind is SnapshotKind.VIEW:
                return Usage()
            with _explained(f"cannot measure snapshot {key!r}"):
                usage = self.measure(self._there(row))
            if row.kind is SnapshotKind.COMMITTED:
                self._db.set_usage(row.id, usage)
            return usage

        return await self._run(job)

    async def mounts(self, key: str) -> Sequence[Mount]:
        def job() -> Sequence[Mount]:
            row = self._db.get(key)
            if row.kind is SnapshotKind.COMMITTED:
                raise FailedPrecondition(
                    f"snapshot {key!r} is committed, only active ones and views can be mounted",
                    resource=f"snapshot {key}",
                )
            with _explained(f"cannot mount snapshot {key!r}"):
                return self.mount_points(self._there(row))

        return await self._run(job)

    async def prepare(self, key: str, parent: str, labels: Labels = NO_LABELS) -> Sequence[Mount]:
        return await self._run(lambda: self._create(SnapshotKind.ACTIVE, key, parent, labels))

    async def view(self, key: str, parent: str, labels: Labels = NO_LABELS) -> Sequence[Mount]:
        return await self._run(lambda: self._create(SnapshotKind.VIEW, key, parent, labels))

    async def commit(self, name: str, key: str, labels: Labels = NO_LABELS) -> None:
        await self.commit_onto(name, key, "", labels)

    async def commit_onto(self, name: str, key: str, parent: str, labels: Labels = NO_LABELS) -> None:
        late = await self._run(lambda: self._commit(name, key, parent, labels))
        if late:
            self._late += 1
            if not self._catching and self._tasks is not None:
                self._catching = True
                self._tasks.start_soon(self._catch_up)

    async def lost(self) -> Sequence[str]:
        def job() -> Sequence[str]:
            return self._behind.lost() if self._behind else self._db.unsynced_but("")

        found = await self._run(job)
        self._trusted = True
        return found

    async def remove(self, key: str) -> None:
        await self._run(lambda: self._remove(key))

    async def cleanup(self) -> None:
        def job() -> None:
            self._discard_orphans()
            self._folders.empty()
            if type(self).settled is not SnapshotterBase.settled:
                last = 0
                while rows := self._db.page(last):
                    for row in rows:
                        if row.kind is SnapshotKind.COMMITTED:
                            self._tidy(self._snapshot(row))
                    last = rows[-1].rank

        await self._run(job)

    async def faults(self) -> Sequence[SnapshotFault]:
        """Folders that belong to no snapshot, and snapshots whose folder is gone."""

        def job() -> Sequence[SnapshotFault]:
            with self._lock:
                orphans = self._folders.orphans(self._db.ids(), self._making)
            found = [SnapshotFault(str(path), "it belongs to no snapshot") for path in orphans]
            found += [
                SnapshotFault(str(path), "it belongs to a snapshot that was removed")
                for path in self._folders.discarded()
            ]
            last = 0
            while rows := self._db.page(last):
                found += [
                    SnapshotFault(
                        str(self._folders.path(row.id)),
                        f"its folder {self._folders.path(row.id)} is gone",
                        row.key,
                    )
                    for row in rows
                    if not self._folders.path(row.id).is_dir() and not self._never_came(row)
                ]
                last = rows[-1].rank
            return found

        return await self._run(job)

    def close(self) -> None:
        """Called when the daemon stops. What it overrides calls this one at last."""
        if self._behind:
            self._settle(self._behind)
        self._db.close()

    async def aclose(self) -> None:
        """See :meth:`close`."""
        await self._run(self.close)
        await self._threads.aclose()

    # How it is done.

    async def _run(self, job: Callable[[], T]) -> T:
        return await self._threads.run(job)

    async def _catch_up(self) -> None:
        """Sync when no layer has come for a while: that is the least work, and in nobody's way."""
        assert self._behind is not None
        try:
            while self._late:
                seen = self._late
                await anyio.sleep(_QUIET_SECONDS)
                if self._late == seen:
                    self._late = 0
                    await self._run(functools.partial(self._settle, self._behind))
                    await self._run(self._measure_committed)
        finally:
            self._catching = False

    def _measure_committed(self) -> None:
        """Measure what nobody waited for at the commit."""
        try:
            for row in self._db.unmeasured():
                self._db.set_usage(row.id, self.measure(self._snapshot(row)))
        except (OSError, OrlopError) as error:
            # Whoever asks for the usage has it measured then.
            _log.warning("cannot measure snapshots: %s", error)

    @staticmethod
    def _settle(behind: Behind) -> None:
        try:
            behind.settle()
        except OrlopError as error:
            _log.error("%s", error.message)

    def _snapshot(self, row: Row) -> Snapshot:
        parents = self._lineage(row.parent_id)
        return Snapshot(row.id, row.key, row.kind, self._folders.path(row.id), parents, row.labels)

    def _find_lineage(self, id: int | None) -> tuple[Path, ...]:
        return tuple(self._folders.path(each) for each in self._db.chain(id))

    def _create(self, kind: SnapshotKind, key: str, parent: str, labels: Labels) -> Sequence[Mount]:
        if not key:
            raise InvalidArgument("a snapshot needs a key")
        with self._lock:
            self._db.check_free(key)
            parent_id = self._parent(parent)
            self._last += 1
            number = self._last
            self._making.add(number)
            if parent_id:
                self._pinned[parent_id] += 1
        layer = kind is SnapshotKind.ACTIVE and TARGET_LABEL in labels
        parents = self._lineage(parent_id)
        snapshot = Snapshot(number, key, kind, self._folders.path(number), parents, labels)
        try:
            with _explained(f"cannot make snapshot {key!r}"):
                if self._behind:
                    self._behind.prepare(parent_id, layer=layer)
                self._folders.make(number, self._fill(snapshot))
                if not self._behind:
                    self._folders.sync(number)
            mark = self._behind.mark if self._behind else None
            self._db.insert(number, key, kind, parent_id, labels, mark)
        except BaseException:
            self._folders.discard(snapshot.path)
            raise
        finally:
            with self._lock:
                self._making.discard(number)
                if parent_id:
                    self._pinned[parent_id] -= 1
        return self.mount_points(snapshot)

    def _fill(self, snapshot: Snapshot) -> Callable[[Path], None]:
        return lambda path: self.make(replace(snapshot, path=path))

    def _there(self, row: Row) -> Snapshot:
        """A snapshot with its folder. One that did not come to the disk before the machine went down was as
        empty as it was made: a file that is synced takes the directories on the way to it along."""
        snapshot = self._snapshot(row)
        if self._never_came(row) and not snapshot.path.exists():
            self._folders.make_again(row.id, self._fill(snapshot))
        return snapshot

    def _never_came(self, row: Row) -> bool:
        """Whether a folder that is missing is one that was lost before it was on the disk."""
        if row.kind is SnapshotKind.COMMITTED or row.unsynced is None or self._behind is None:
            return False
        return row.unsynced != self._behind.mark

    def _parent(self, key: str) -> int | None:
        if not key:
            return None
        try:
            row = self._db.get(key)
        except NotFound as error:
            raise NotFound(f"parent snapshot {key!r} does not exist", resource=f"snapshot {key}") from error
        if row.kind is not SnapshotKind.COMMITTED:
            raise FailedPrecondition(
                f"parent snapshot {key!r} is not committed but {row.kind.value}", resource=f"snapshot {key}"
            )
        return row.id

    def _commit(self, name: str, key: str, parent: str, labels: Labels) -> bool:
        if not name:
            raise InvalidArgument(f"committing snapshot {key!r} needs a name")
        row = self._db.get(key)
        if row.kind is not SnapshotKind.ACTIVE:
            raise FailedPrecondition(
                f"snapshot {key!r} is {row.kind.value}, only an active one can be committed",
                resource=f"snapshot {key}",
            )
        if name != key:
            self._db.check_free(name)
        if not parent or parent == row.parent:
            return self._freeze(row, name, labels, None)
        if row.parent:
            raise InvalidArgument(
                f"cannot commit snapshot {key!r} onto {parent!r}: it was made on {row.parent!r}",
                resource=f"snapshot {key}",
            )
        if not self.rebases:
            raise Unimplemented(
                f"cannot commit snapshot {key!r} onto {parent!r}: this snapshotter needs to know the parent "
                "when it makes a snapshot",
                hint=f"prepare it on {parent!r}",
            )
        with self._lock:
            parent_id = self._parent(parent)
            assert parent_id is not None
            self._pinned[parent_id] += 1
        try:
            return self._freeze(row, name, labels, parent_id)
        finally:
            with self._lock:
                self._pinned[parent_id] -= 1

    def _freeze(self, row: Row, name: str, labels: Labels, parent_id: int | None) -> bool:
        """Commit; whether it is still to be brought to the disk."""
        late = self._behind is not None and self._trusted and TARGET_LABEL in row.labels
        with _explained(f"cannot commit snapshot {row.key!r}"):
            snapshot = replace(self._there(row), labels=labels)
            if parent_id is not None:
                parents = self._lineage(parent_id)
                snapshot = replace(snapshot, parents=parents)
                self.rebase(snapshot)
            self.seal(snapshot)
            usage = None if late else self.measure(snapshot)
            # Whoever filled it may have left it in memory; a committed snapshot is a promise, and so is all
            # below it.
            if not late and not (self._behind and self._behind.settle()):
                sync_filesystem(snapshot.path)
        mark = self._behind.mark if late and self._behind else None
        self._db.commit(row, name, labels, usage, parent_id, mark)
        self._tidy(snapshot)
        return late

    def _tidy(self, snapshot: Snapshot) -> None:
        try:
            self.settled(snapshot)
        except (OSError, OrlopError) as error:
            # The snapshot is right all the same; cleanup() tries again.
            _log.warning("left what snapshot %s does not need any more: %s", snapshot.key, error)

    def _remove(self, key: str) -> None:
        with self._lock:
            row = self._db.get(key)
            if self._pinned[row.id]:
                raise FailedPrecondition(
                    f"snapshot {key!r} is becoming the parent of another one", resource=f"snapshot {key}"
                )
            self._db.delete(row)
        self._folders.discard(self._folders.path(row.id))

    def _discard_orphans(self) -> None:
        with self._lock:
            self._folders.discard_orphans(self._db.ids(), self._making)


@contextmanager
def _explained(tried: str) -> Generator[None]:
    try:
        yield
    except AlreadyExists:
        raise
    except OSError as error:
        raise explain(error, tried) from error
