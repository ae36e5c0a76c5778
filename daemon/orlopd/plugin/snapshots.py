"""The contract of a snapshotter.

A snapshotter keeps a tree of snapshots by key. A committed one is immutable and may have children;
an active one is writable and has none; a view is a read-only active one. Each call that gives
access returns the mounts that whoever wants to see the files performs; the snapshotter itself
mounts nothing for others. The core has already put the namespace into the keys, so keys are opaque
here. As an example, an image of two layers and a container on it::

    mounts = await s.prepare("extract-1", "")          # apply layer 1 there
    await s.commit("chain-1", "extract-1")
    mounts = await s.prepare("extract-2", "chain-1")   # apply layer 2 there
    await s.commit("chain-2", "extract-2")
    mounts = await s.prepare("my-container", "chain-2")
    ...
    await s.remove("my-container")

Most plugins derive from :class:`orlopd.plugin.snapshotter_base.SnapshotterBase`, which keeps keys,
parents, labels and times in a small database, and leaves directories and mounts to write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .values import NO_LABELS, Labels, Mount, SnapshotInfo, Usage

TARGET_LABEL = "containerd.io/snapshot.ref"
"""On prepare: the snapshot is for unpacking a layer, and its value the name of what will be committed. A
remote snapshotter may have that already. What is unpacked so can be unpacked again."""

REBASE_LABEL = "containerd.io/snapshot/rebase"
"""On prepare, without a parent and with any value: the snapshot will be committed onto a parent. A
snapshotter that stacks overlays then says to mount an overlay with an upper directory and no lower one, which
nobody mounts: a differ writes into the upper directory as :mod:`orlopd.plugin.rebase` has it."""


class Snapshotter(Protocol):
    """Root filesystems by key."""

    async def stat(self, key: str) -> SnapshotInfo:
        """:raises NotFound: no such snapshot"""
        ...

    async def set_labels(self, key: str, labels: Labels) -> SnapshotInfo:
        """Replace all labels of a snapshot. :raises NotFound: no such snapshot"""
        ...

    def walk(self) -> AsyncIterator[SnapshotInfo]:
        """Every snapshot, parents before children."""
        ...

    async def usage(self, key: str) -> Usage:
        """What the snapshot itself takes, its parents apart; live for an active one, nothing for a view.

        :raises NotFound: no such snapshot
        """
        ...

    async def mounts(self, key: str) -> Sequence[Mount]:
        """The mounts of an active snapshot or view, as prepare or view returned them.

        :raises NotFound: no such snapshot
        :raises FailedPrecondition: it is committed
        """
        ...

    async def prepare(self, key: str, parent: str, labels: Labels = NO_LABELS) -> Sequence[Mount]:
        """Make a writable snapshot on a committed one ("" for an empty one).

        :raises AlreadyExists: ``key`` names a snapshot
        :raises NotFound: ``parent`` names none
        :raises FailedPrecondition: ``parent`` is not committed
        """
        ...

    async def view(self, key: str, parent: str, labels: Labels = NO_LABELS) -> Sequence[Mount]:
        """Make a read-only snapshot. Raises as prepare."""
        ...

    async def commit(self, name: str, key: str, labels: Labels = NO_LABELS) -> None:
        """Turn the active snapshot ``key`` into the committed one ``name``; ``key`` is gone then.

        :raises AlreadyExists: ``name`` names a snapshot
        :raises NotFound: ``key`` names none
        :raises FailedPrecondition: ``key`` is not active
        """
        ...

    async def remove(self, key: str) -> None:
        """Remove a snapshot and its files. It must not be mounted.

        :raises NotFound: no such snapshot
        :raises FailedPrecondition: it has children
        """
        ...

    async def cleanup(self) -> None:
        """Delete what earlier removals and crashes left behind."""
        ...


@runtime_checkable
class RebasingSnapshotter(Snapshotter, Protocol):
    """A snapshotter whose snapshots may get their parent at commit, so that the layers of an image can be
    unpacked side by side. Its provider names the capability :data:`REBASE`."""

    @property
    def rebases(self) -> bool:
        """Whether this one does."""
        ...

    async def commit_onto(self, name: str, key: str, parent: str, labels: Labels = NO_LABELS) -> None:
        """As commit, for a snapshot that was prepared without a parent: the committed one has ``parent``.

        :raises AlreadyExists: ``name`` names a snapshot
        :raises NotFound: ``key`` or ``parent`` names none
        :raises FailedPrecondition: ``key`` is not active, or ``parent`` is not committed
        :raises InvalidArgument: ``key`` has another parent
        :raises Unimplemented: this snapshotter does not
        """
        ...


REBASE = "rebase"
"""containerd's word for it among a plugin's capabilities."""


def rebases(snapshotter: Snapshotter) -> bool:
    """Whether a snapshot may get its parent at commit."""
    return isinstance(snapshotter, RebasingSnapshotter) and snapshotter.rebases


@runtime_checkable
class RecoveringSnapshotter(Snapshotter, Protocol):
    """A snapshotter that writes layers to the disk behind their commit, for hosts that ask what got lost."""

    async def lost(self) -> Sequence[str]:
        """The snapshots that a crash of the machine may have left incomplete, children first.

        A host calls it once, before anything else, and forgets and removes them. Only from then on
        may a commit return before the layer is on the disk, if the snapshot was prepared with
        :data:`TARGET_LABEL`. No snapshot that was prepared without it is ever lost.
        """
        ...


@dataclass(frozen=True, slots=True)
class SnapshotFault:
    """Something that a snapshotter finds wrong with what it keeps.

    :param path: the file or folder
    :param key: the snapshot whose data is gone or damaged; empty for something that belongs to none and
        that ``cleanup`` deletes
    """

    path: str
    message: str
    key: str = ""


@runtime_checkable
class CheckedSnapshotter(Snapshotter, Protocol):
    """A snapshotter that can check itself, which is not asked of every one."""

    async def faults(self) -> Sequence[SnapshotFault]:
        """What is wrong now. Changes nothing."""
        ...
