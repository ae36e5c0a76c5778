"""Snapshots as layers of overlay filesystems.

A snapshot's folder holds ``fs``, its own files, and ``work``, the kernel's scratch space.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from orlopd.plugin.files import disk_usage
from orlopd.plugin.mount import escape_option
from orlopd.plugin.rebase import settle
from orlopd.plugin.snapshots import REBASE_LABEL
from orlopd.plugin.snapshotter_base import Snapshot, SnapshotterBase
from orlopd.plugin.values import Mount, SnapshotKind, Usage


class OverlaySnapshotter(SnapshotterBase):
    """Snapshots as layers of overlay filesystems.

    :param options: mount options for every overlay
    """

    rebases = True

    def __init__(self, root: Path, options: Sequence[str] = ()) -> None:
        super().__init__(root)
        self._options = tuple(options)

    def make(self, snapshot: Snapshot) -> None:
        files = snapshot.path / "fs"
        files.mkdir(mode=0o755)
        files.chmod(0o755)
        if snapshot.kind is SnapshotKind.ACTIVE:
            (snapshot.path / "work").mkdir(mode=0o711)
        if snapshot.parents:
            # What the mount shows of its top directory is the upper one's alone.
            below = (snapshot.parents[0] / "fs").stat()
            os.chown(files, below.st_uid, below.st_gid)
            files.chmod(below.st_mode & 0o7777)

    def mount_points(self, snapshot: Snapshot) -> Sequence[Mount]:
        active = snapshot.kind is SnapshotKind.ACTIVE
        layers = [parent / "fs" for parent in snapshot.parents]
        bare = active and not layers and bool(snapshot.labels.get(REBASE_LABEL))
        if not bare and (not layers or (not active and len(layers) == 1)):
            only = layers[0] if layers else snapshot.path / "fs"
            return [Mount("bind", str(only), ("rw" if active else "ro", "rbind"))]
        options = list(self._options)
        if active:
            options.append(f"workdir={escape_option(str(snapshot.path / 'work'))}")
            options.append(f"upperdir={escape_option(str(snapshot.path / 'fs'))}")
        if layers:
            options.append("lowerdir=" + ":".join(escape_option(str(layer), lower=True) for layer in layers))
        return [Mount("overlay", "overlay", tuple(options))]

    def rebase(self, snapshot: Snapshot) -> None:
        lowers = [parent / "fs" for parent in snapshot.parents]
        settle(snapshot.path / "fs", lowers, userxattr="userxattr" in self._options)

    def measure(self, snapshot: Snapshot) -> Usage:
        return disk_usage(snapshot.path / "fs")
