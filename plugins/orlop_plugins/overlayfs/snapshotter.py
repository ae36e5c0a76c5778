"""Snapshots as layers of overlay filesystems.

A snapshot's folder holds ``fs``, its own files, and ``work``, the kernel's scratch space.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from orlopd.plugin.errors import FailedPrecondition
from orlopd.plugin.files import disk_usage, remove_tree
from orlopd.plugin.overlay import stacked
from orlopd.plugin.rebase import settle
from orlopd.plugin.snapshots import REBASE_LABEL
from orlopd.plugin.snapshotter_base import Snapshot, SnapshotterBase
from orlopd.plugin.values import Mount, SnapshotKind, Usage

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_VOLATILE = Path("work", "work", "incompat", "volatile")  # the kernel's


class OverlaySnapshotter(SnapshotterBase):
    """Snapshots as layers of overlay filesystems.

    :param options: mount options for every overlay
    :param volatile: whether writable ones are mounted so that nothing waits for the disk
    """

    rebases = True

    def __init__(self, root: Path, options: Sequence[str] = (), *, volatile: bool = False) -> None:
        super().__init__(root)
        self._options = tuple(options)
        self._volatile = volatile

    def make(self, snapshot: Snapshot) -> None:
        files = snapshot.path / "fs"
        files.mkdir(mode=0o755)
        files.chmod(0o755)
        if snapshot.kind is SnapshotKind.ACTIVE:
            (snapshot.path / "work").mkdir(mode=0o711)
            if self._volatile:
                (snapshot.path / "boot").write_bytes(_BOOT.read_bytes())
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
        if not active:
            return [stacked(layers, options=self._options)]
        options = self._options
        if self._volatile and not bare:
            self._forgive(snapshot)
            options = (*options, "volatile")
        return [stacked(layers, snapshot.path / "fs", snapshot.path / "work", options=options)]

    def _forgive(self, snapshot: Snapshot) -> None:
        """Have the kernel mount a volatile overlay again, if the machine has not crashed since.

        The kernel leaves a mark for ever and refuses where it finds one, because it cannot tell.
        """
        if not (snapshot.path / _VOLATILE).exists():
            return
        with contextlib.suppress(FileNotFoundError):
            if (snapshot.path / "boot").read_bytes() == _BOOT.read_bytes():
                remove_tree(snapshot.path / _VOLATILE)
                return
        raise FailedPrecondition(
            f"snapshot {snapshot.key!r} was mounted volatile before the machine was started anew, so that "
            "files of it may be missing or empty",
            reason="VOLATILE_LOST",
            resource=f"snapshot {snapshot.key}",
            hint="remove it and make it anew",
        )

    def rebase(self, snapshot: Snapshot) -> None:
        lowers = [parent / "fs" for parent in snapshot.parents]
        settle(snapshot.path / "fs", lowers, userxattr="userxattr" in self._options)

    def measure(self, snapshot: Snapshot) -> Usage:
        return disk_usage(snapshot.path / "fs")
