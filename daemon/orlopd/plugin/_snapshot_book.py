"""The bookkeeping behind :mod:`orlopd.plugin.snapshotter_base`: rows and folders of snapshots, kept together.

A folder is there before its row and goes after it. What a folder holds is the business of :class:`Filling`.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

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
from .files import explain, sync_filesystem
from .snapshots import TARGET_LABEL, SnapshotFault
from .values import NO_LABELS, Labels, Mount, SnapshotKind, Usage

_CHAINS = 256
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


class Filling(Protocol):
    """What is in the folders: the methods of :class:`orlopd.plugin.snapshotter_base.SnapshotterBase` that a
    subclass overrides."""

    rebases: bool

    def make(self, snapshot: Snapshot) -> None: ...
    def mount_points(self, snapshot: Snapshot) -> Sequence[Mount]: ...
    def measure(self, snapshot: Snapshot) -> Usage: ...
    def seal(self, snapshot: Snapshot) -> None: ...
    def settled(self, snapshot: Snapshot) -> None: ...
    def rebase(self, snapshot: Snapshot) -> None: ...
    def drop(self, path: Path) -> None: ...


class Book:
    """How snapshots come to be, are committed, and go. Blocks; threads may call it at once.

    :param root: where it keeps all of them
    """

    def __init__(self, root: Path, filling: Filling) -> None:
        self._folders = Folders(root, lambda path: filling.drop(path))
        self.db = SnapshotDatabase(root / "snapshots.db")
        self._filling = filling
        # What is below a committed one stays the same, and no number comes twice.
        self._lineage = functools.lru_cache(_CHAINS)(self._find_lineage)
        self._lock = threading.Lock()
        self._making: set[int] = set()
        self._pinned: Counter[int] = Counter()
        self._behind: Behind | None = None
        # A number whose snapshot was never recorded may be in use as a folder's name all the same.
        self._last = max(self.db.last_id(), self._folders.last())
        self._discard_orphans()

    def write_behind(self, state: Path) -> Behind:
        """Let layers be committed ahead of their sync from now on.

        :param state: a folder that a reboot empties
        """
        self._behind = behind = Behind(self.db, self._folders.top, state)
        begun = self.db.begun_before(behind.mark)
        self.db.set_unsynced([each for each in begun if self._folders.path(each).is_dir()], None)
        return behind

    def usage(self, key: str) -> Usage:
        """What a snapshot takes: noted once for a committed one, measured each time for an active one."""
        row = self.db.get(key)
        if row.usage is not None:
            return row.usage
        if row.kind is SnapshotKind.VIEW:
            return Usage()
        with _explained(f"cannot measure snapshot {key!r}"):
            usage = self._filling.measure(self._there(row))
        if row.kind is SnapshotKind.COMMITTED:
            self.db.set_usage(row.id, usage)
        return usage

    def mounts(self, key: str) -> Sequence[Mount]:
        """How to mount an active snapshot or a view."""
        row = self.db.get(key)
        if row.kind is SnapshotKind.COMMITTED:
            raise FailedPrecondition(
                f"snapshot {key!r} is committed, only active ones and views can be mounted",
                resource=f"snapshot {key}",
            )
        with _explained(f"cannot mount snapshot {key!r}"):
            return self._filling.mount_points(self._there(row))

    def create(self, kind: SnapshotKind, key: str, parent: str, labels: Labels) -> Sequence[Mount]:
        """Make a snapshot of a kind; how to mount it."""
        if not key:
            raise InvalidArgument("a snapshot needs a key")
        with self._lock:
            self.db.check_free(key)
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
            self.db.insert(number, key, kind, parent_id, labels, mark)
        except BaseException:
            self._folders.discard(snapshot.path)
            raise
        finally:
            with self._lock:
                self._making.discard(number)
                if parent_id:
                    self._pinned[parent_id] -= 1
        return self._filling.mount_points(snapshot)

    def commit(self, name: str, key: str, parent: str, labels: Labels, *, late: bool) -> bool:
        """Make an active snapshot a committed one, on another parent if it has none.

        :param late: a layer may come to the disk later
        :returns: whether it does
        """
        if not name:
            raise InvalidArgument(f"committing snapshot {key!r} needs a name")
        row = self.db.get(key)
        if row.kind is not SnapshotKind.ACTIVE:
            raise FailedPrecondition(
                f"snapshot {key!r} is {row.kind.value}, only an active one can be committed",
                resource=f"snapshot {key}",
            )
        if name != key:
            self.db.check_free(name)
        if not parent or parent == row.parent:
            return self._freeze(row, name, labels, None, late)
        if row.parent:
            raise InvalidArgument(
                f"cannot commit snapshot {key!r} onto {parent!r}: it was made on {row.parent!r}",
                resource=f"snapshot {key}",
            )
        if not self._filling.rebases:
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
            return self._freeze(row, name, labels, parent_id, late)
        finally:
            with self._lock:
                self._pinned[parent_id] -= 1

    def remove(self, key: str) -> None:
        """Remove a snapshot that nothing stands on."""
        with self._lock:
            row = self.db.get(key)
            if self._pinned[row.id]:
                raise FailedPrecondition(
                    f"snapshot {key!r} is becoming the parent of another one", resource=f"snapshot {key}"
                )
            self.db.delete(row)
        self._folders.discard(self._folders.path(row.id))

    def measure_committed(self) -> None:
        """Measure what nobody waited for at the commit."""
        try:
            for row in self.db.unmeasured():
                self.db.set_usage(row.id, self._filling.measure(self._snapshot(row)))
        except (OSError, OrlopError) as error:
            # Whoever asks for the usage has it measured then.
            _log.warning("cannot measure snapshots: %s", error)

    def cleanup(self, *, tidy: bool) -> None:
        """Delete what belongs to no snapshot.

        :param tidy: go to every committed one as well, for what it does not need any more
        """
        self._discard_orphans()
        self._folders.empty()
        if tidy:
            last = 0
            while rows := self.db.page(last):
                for row in rows:
                    if row.kind is SnapshotKind.COMMITTED:
                        self._tidy(self._snapshot(row))
                last = rows[-1].rank

    def faults(self) -> Sequence[SnapshotFault]:
        """Folders that belong to no snapshot, and snapshots whose folder is gone."""
        with self._lock:
            orphans = self._folders.orphans(self.db.ids(), self._making)
        found = [SnapshotFault(str(path), "it belongs to no snapshot") for path in orphans]
        found += [
            SnapshotFault(str(path), "it belongs to a snapshot that was removed")
            for path in self._folders.discarded()
        ]
        last = 0
        while rows := self.db.page(last):
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

    def _snapshot(self, row: Row) -> Snapshot:
        parents = self._lineage(row.parent_id)
        return Snapshot(row.id, row.key, row.kind, self._folders.path(row.id), parents, row.labels)

    def _find_lineage(self, id: int | None) -> tuple[Path, ...]:
        return tuple(self._folders.path(each) for each in self.db.chain(id))

    def _fill(self, snapshot: Snapshot) -> Callable[[Path], None]:
        return lambda path: self._filling.make(replace(snapshot, path=path))

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
            row = self.db.get(key)
        except NotFound as error:
            raise NotFound(f"parent snapshot {key!r} does not exist", resource=f"snapshot {key}") from error
        if row.kind is not SnapshotKind.COMMITTED:
            raise FailedPrecondition(
                f"parent snapshot {key!r} is not committed but {row.kind.value}", resource=f"snapshot {key}"
            )
        return row.id

    def _freeze(self, row: Row, name: str, labels: Labels, parent_id: int | None, late: bool) -> bool:
        late = late and self._behind is not None and TARGET_LABEL in row.labels
        with _explained(f"cannot commit snapshot {row.key!r}"):
            snapshot = replace(self._there(row), labels=labels)
            if parent_id is not None:
                parents = self._lineage(parent_id)
                snapshot = replace(snapshot, parents=parents)
                self._filling.rebase(snapshot)
            self._filling.seal(snapshot)
            usage = None if late else self._filling.measure(snapshot)
            # Whoever filled it may have left it in memory; a committed snapshot is a promise, and so is all
            # below it.
            if not late and not (self._behind and self._behind.settle()):
                sync_filesystem(snapshot.path)
        mark = self._behind.mark if late and self._behind else None
        self.db.commit(row, name, labels, usage, parent_id, mark)
        self._tidy(snapshot)
        return late

    def _tidy(self, snapshot: Snapshot) -> None:
        try:
            self._filling.settled(snapshot)
        except (OSError, OrlopError) as error:
            # The snapshot is right all the same; cleanup() tries again.
            _log.warning("left what snapshot %s does not need any more: %s", snapshot.key, error)

    def _discard_orphans(self) -> None:
        with self._lock:
            self._folders.discard_orphans(self.db.ids(), self._making)


@contextmanager
def _explained(tried: str) -> Generator[None]:
    try:
        yield
    except AlreadyExists:
        raise
    except OSError as error:
        raise explain(error, tried) from error
