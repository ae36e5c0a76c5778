"""Snapshots as plain directories, each a full copy of its parent. Works on any filesystem."""

from __future__ import annotations

from collections.abc import Sequence

from orlopd.plugin.files import disk_usage, sync_filesystem
from orlopd.plugin.snapshotter_base import Snapshot, SnapshotterBase
from orlopd.plugin.values import Mount, SnapshotKind, Usage

from .copying import copy_tree


class VfsSnapshotter(SnapshotterBase):
    """Snapshots as plain directories."""

    def make(self, snapshot: Snapshot) -> None:
        files = snapshot.path / "fs"
        files.mkdir(mode=0o755)
        files.chmod(0o755)
        if snapshot.parents and snapshot.kind is SnapshotKind.ACTIVE:
            copy_tree(snapshot.parents[0] / "fs", files)
            # A container's first files are not its own to sync.
            sync_filesystem(files)

    def mount_points(self, snapshot: Snapshot) -> Sequence[Mount]:
        if snapshot.kind is SnapshotKind.ACTIVE:
            return [Mount("bind", str(snapshot.path / "fs"), ("rw", "rbind"))]
        shown = snapshot.parents[0] if snapshot.parents else snapshot.path
        return [Mount("bind", str(shown / "fs"), ("ro", "rbind"))]

    def measure(self, snapshot: Snapshot) -> Usage:
        return disk_usage(snapshot.path / "fs")
