"""Snapshots as EROFS images, stacked by overlay.

The folder of an active snapshot has ``fs`` and ``work``, an overlay's. When it is committed, ``fs`` becomes
the image ``layer.erofs`` and goes. In one that is for a layer of an image there is also an empty
``layer.erofs.new``: our own differ makes the image of that, and ``fs`` stays empty; whoever mounts the
snapshot and writes files has it as everywhere. An image that others stand on is mounted on ``image`` beside
it, from when it is first wanted until the daemon stops: an overlay has clones of the mounts below and does
not miss them. What a daemon that was killed left mounted the next one uses.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from orlopd.plugin.errors import FailedPrecondition, OrlopError
from orlopd.plugin.files import disk_usage, remove_tree
from orlopd.plugin.mount import mount_points, unmount
from orlopd.plugin.overlay import stacked
from orlopd.plugin.rebase import settle
from orlopd.plugin.snapshots import REBASE_LABEL, TARGET_LABEL
from orlopd.plugin.snapshotter_base import Snapshot, SnapshotterBase
from orlopd.plugin.values import Mount, SnapshotKind, Usage

from . import image
from .image import IMAGE, NEW


class ErofsSnapshotter(SnapshotterBase):
    """Snapshots as EROFS images.

    :param options: mount options for every overlay
    :param compression: what mkfs.erofs knows; images are written without it where empty
    :param loop: whether images are mounted through loop devices
    """

    rebases = True

    def __init__(
        self, root: Path, options: Sequence[str] = (), *, compression: str = "", loop: bool = False
    ) -> None:
        super().__init__(root)
        self._root = root
        self._options = tuple(options)
        self._compression = compression
        self._loop = loop
        self._userxattr = "userxattr" in self._options
        self._mounting = threading.Lock()

    def make(self, snapshot: Snapshot) -> None:
        files = snapshot.path / "fs"
        files.mkdir(mode=0o755)
        files.chmod(0o755)
        if snapshot.kind is SnapshotKind.ACTIVE:
            (snapshot.path / "work").mkdir(mode=0o711)
            if TARGET_LABEL in snapshot.labels and not self._compression:
                (snapshot.path / NEW).touch(mode=0o600)
        if snapshot.parents:
            below = self._shown(snapshot.parents[0]).stat()
            os.chown(files, below.st_uid, below.st_gid)
            files.chmod(below.st_mode & 0o7777)

    def mount_points(self, snapshot: Snapshot) -> Sequence[Mount]:
        active = snapshot.kind is SnapshotKind.ACTIVE
        layers = self._below(snapshot)
        bare = active and not layers and bool(snapshot.labels.get(REBASE_LABEL))
        if not bare and (not layers or (not active and len(layers) == 1)):
            only = layers[0] if layers else snapshot.path / "fs"
            return [Mount("bind", str(only), ("rw" if active else "ro", "rbind"))]
        if not active:
            return [stacked(layers, options=self._options)]
        return [stacked(layers, snapshot.path / "fs", snapshot.path / "work", options=self._options)]

    def rebase(self, snapshot: Snapshot) -> None:
        if not (snapshot.path / IMAGE).exists():
            settle(snapshot.path / "fs", self._below(snapshot), userxattr=self._userxattr)

    def seal(self, snapshot: Snapshot) -> None:
        files, made = snapshot.path / "fs", snapshot.path / IMAGE
        if not made.exists():
            image.make(files, made, compression=self._compression)
        elif any(files.iterdir()):
            raise FailedPrecondition(
                f"snapshot {snapshot.key!r} had a layer unpacked into it, and then files written to it",
                resource=f"snapshot {snapshot.key}",
            )
        else:
            image.put_on(made, self._below(snapshot), userxattr=self._userxattr)
        (snapshot.path / "image").mkdir(mode=0o700, exist_ok=True)

    def settled(self, snapshot: Snapshot) -> None:
        for name in ("fs", "work"):
            if (snapshot.path / name).exists():
                remove_tree(snapshot.path / name)
        (snapshot.path / NEW).unlink(missing_ok=True)

    def measure(self, snapshot: Snapshot) -> Usage:
        made = snapshot.path / IMAGE
        return image.usage(made) if made.exists() else disk_usage(snapshot.path / "fs")

    def drop(self, path: Path) -> None:
        try:
            unmount(path, detach=True)
        except OrlopError as error:
            raise OSError(f"cannot unmount what is in {str(path)!r}: {error.message}") from error
        remove_tree(path)

    def close(self) -> None:
        """Unmount the images."""
        for point in mount_points(self._root):
            if Path(point).name == "image":  # the root itself may be a disk that somebody mounted there
                unmount(point, detach=True)
        super().close()

    def _below(self, snapshot: Snapshot) -> list[Path]:
        return [self._shown(parent) for parent in snapshot.parents]

    def _shown(self, folder: Path) -> Path:
        """Where the image in a snapshot's folder is mounted, from now on."""
        point = folder / "image"
        with self._mounting:
            try:
                if not image.is_mounted(point):
                    image.show(folder / IMAGE, point, loop=self._loop)
            except FileNotFoundError as error:
                raise FailedPrecondition(
                    f"the image {str(folder / IMAGE)!r} is gone", reason="IMAGE_LOST"
                ) from error
        return point
