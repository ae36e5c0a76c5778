"""Snapshots as btrfs subvolumes: ``fs`` in a snapshot's folder begins as a btrfs snapshot of its parent's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orlopd.plugin.files import disk_usage, remove_tree, walk
from orlopd.plugin.snapshotter_base import Snapshot, SnapshotterBase
from orlopd.plugin.values import Mount, SnapshotKind, Usage

from . import subvolumes


class BtrfsSnapshotter(SnapshotterBase):
    """Snapshots as btrfs subvolumes.

    :param root: a folder on btrfs
    """

    def make(self, snapshot: Snapshot) -> None:
        files = snapshot.path / "fs"
        if not snapshot.parents:
            subvolumes.create(files)
            files.chmod(0o755)
        elif snapshot.kind is SnapshotKind.ACTIVE:
            subvolumes.snapshot(snapshot.parents[0] / "fs", files)

    def mount_points(self, snapshot: Snapshot) -> Sequence[Mount]:
        if snapshot.kind is SnapshotKind.ACTIVE:
            return [Mount("bind", str(snapshot.path / "fs"), ("rw", "rbind"))]
        shown = snapshot.parents[0] if snapshot.parents else snapshot.path
        return [Mount("bind", str(shown / "fs"), ("ro", "rbind"))]

    def measure(self, snapshot: Snapshot) -> Usage:
        files = snapshot.path / "fs"
        return changed(files, snapshot.parents[0] / "fs") if snapshot.parents else disk_usage(files)

    def drop(self, path: Path) -> None:
        if (path / "fs").is_dir():
            try:
                subvolumes.destroy(path / "fs")
            except OSError:
                # There are subvolumes in it, which a container with enough rights may have made.
                remove_tree(path / "fs")
        remove_tree(path)


def changed(tree: Path, origin: Path) -> Usage:
    """What a subvolume takes beyond the one it began as: files that are new or were touched since.

    A btrfs snapshot keeps numbers and change times of inodes, so that one that has both still is the same.
    """
    same = {(info.st_ino, info.st_ctime_ns) for _, _, info in walk(origin)}
    seen: set[int] = set()
    size = 0
    for _, _, info in walk(tree):
        if info.st_ino not in seen and (info.st_ino, info.st_ctime_ns) not in same:
            seen.add(info.st_ino)
            size += info.st_blocks * 512
    return Usage(len(seen), size)
