"""Snapshots as layers of overlay filesystems.

A snapshot's folder holds ``fs``, its own files, and ``work``, the kernel's scratch space.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from pathlib import Path

from orlopd.plugin.errors import FailedPrecondition, InvalidArgument
from orlopd.plugin.files import disk_usage, remove_tree
from orlopd.plugin.overlay import stacked
from orlopd.plugin.rebase import settle
from orlopd.plugin.snapshots import REBASE_LABEL
from orlopd.plugin.snapshotter_base import Snapshot, SnapshotterBase
from orlopd.plugin.values import Mount, SnapshotKind, Usage

UIDS, GIDS = "containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping"
"""On prepare and view, containerd's: CONTAINER:HOST:SIZE. The files below belong to whom the map says."""

REMAP = "remap-ids"
"""containerd's word for it among a plugin's capabilities."""

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
            uid = _mapped(snapshot.labels.get(UIDS, ""), below.st_uid)
            os.chown(files, uid, _mapped(snapshot.labels.get(GIDS, ""), below.st_gid))
            files.chmod(below.st_mode & 0o7777)

    def mount_points(self, snapshot: Snapshot) -> Sequence[Mount]:
        active = snapshot.kind is SnapshotKind.ACTIVE
        layers = _layers(snapshot.parents)
        maps = self._maps(snapshot) if layers else ()
        bare = active and not layers and bool(snapshot.labels.get(REBASE_LABEL))
        if not bare and (not layers or (not active and len(layers) == 1)):
            only = layers[0] if layers else snapshot.path / "fs"
            return [Mount("bind", str(only), ("rw" if active else "ro", "rbind", *maps))]
        if not active:
            return [stacked(layers, options=(*self._options, *maps))]
        options = (*self._options, *maps)
        if self._volatile and not bare:
            self._forgive(snapshot)
            options = (*options, "volatile")
        return [stacked(layers, snapshot.path / "fs", snapshot.path / "work", options=options)]

    def _maps(self, snapshot: Snapshot) -> tuple[str, ...]:
        """The options that have lower layers show other owners, for a container in a user namespace."""
        named = (("uidmap", snapshot.labels.get(UIDS, "")), ("gidmap", snapshot.labels.get(GIDS, "")))
        return tuple(f"{option}={value}" for option, value in named if value)

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
        settle(snapshot.path / "fs", _layers(snapshot.parents), userxattr="userxattr" in self._options)

    def measure(self, snapshot: Snapshot) -> Usage:
        return disk_usage(snapshot.path / "fs")


@functools.lru_cache(128)
def _layers(parents: tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(parent / "fs" for parent in parents)


def _mapped(mapping: str, id: int) -> int:
    """What an id is on the host. :raises InvalidArgument: the label is malformed, or has no such id"""
    if not mapping:
        return id
    try:
        ranges = [tuple(map(int, entry.split(":"))) for entry in mapping.split(",")]
        for inside, outside, size in ranges:
            if inside <= id < inside + size:
                return outside + id - inside
    except ValueError:
        pass
    raise InvalidArgument(f"the map {mapping!r} of a snapshot's label is malformed, or has no id {id}")
