"""Root filesystems for containers in user namespaces: shown through a map of ids, or changed."""

from __future__ import annotations

import logging
import os
import stat
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
from anyio import to_thread

from orlopd.core.oci import IdMaps
from orlopd.core.scope import Scope
from orlopd.core.snapshots import NamespacedSnapshotter
from orlopd.plugin.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unimplemented,
)
from orlopd.plugin.files import walk
from orlopd.plugin.mount import mounted
from orlopd.plugin.values import Mount

log = logging.getLogger("orlopd.engine")

UIDS, GIDS = "containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping"
"""containerd's labels for snapshotters that can show other owners: CONTAINER:HOST:SIZE,…"""

_CAPABILITY = "security.capability"
# linux/capability.h: struct vfs_cap_data and vfs_ns_cap_data, and their revisions.
_REVISION_2, _REVISION_3, _REVISION_MASK = 0x02000000, 0x03000000, 0xFF000000


async def prepare(
    snapshotter: NamespacedSnapshotter, scope: Scope, id: str, parent: str, maps: IdMaps, folder: Path
) -> Sequence[Mount]:
    """Prepare a container's snapshot so that its files belong to the ids inside.

    A snapshotter that can shows them through the map, which costs nothing; where it, the kernel or the
    filesystem cannot, every file of the snapshot is given to the id outside, which takes the time and perhaps
    the space of a copy.

    :param folder: where to show the snapshot meanwhile
    :raises OrlopError: as the snapshotter's prepare
    """
    uids, gids = maps.options
    mounts = await snapshotter.prepare(scope, id, parent, {UIDS: uids, GIDS: gids})
    if _is_mapped(mounts):
        try:
            await to_thread.run_sync(_try, mounts, folder)
            return mounts
        except (FailedPrecondition, InvalidArgument, PermissionDenied, Unimplemented) as error:
            log.warning(
                "the files of container %s are given other owners one by one: layers of %s cannot be shown "
                "through a map of ids here: %s",
                id,
                snapshotter.name,
                error.message,
            )
        await snapshotter.remove(scope, id)
        mounts = await snapshotter.prepare(scope, id, parent)
    try:
        await to_thread.run_sync(_shift, mounts, maps, folder)
    except BaseException:
        with anyio.CancelScope(shield=True), suppress(NotFound):
            await snapshotter.remove(scope, id)
        raise
    return mounts


def mapped_root(path: str, maps: IdMaps) -> Mount:
    """A directory of the machine as a root filesystem, shown through the map."""
    uids, gids = maps.options
    return Mount("bind", path, ("rbind", "rw", f"uidmap={uids}", f"gidmap={gids}"))


def _is_mapped(mounts: Sequence[Mount]) -> bool:
    return any(option.startswith("uidmap=") for mount in mounts for option in mount.options)


def _try(mounts: Sequence[Mount], folder: Path) -> None:
    with mounted(mounts, folder=folder):
        pass


def _shift(mounts: Sequence[Mount], maps: IdMaps, folder: Path) -> None:
    with mounted(mounts, folder=folder) as root:
        shift(root, maps)


def shift(root: Path, maps: IdMaps) -> None:
    """Give every file below ``root``, itself included, to the ids outside. Blocks.

    Ids that the map does not have are left: inside they are nobody's. Set-id bits stay, and file capabilities
    become those of the user namespace (capabilities(7), version 3).
    """
    seen: set[tuple[int, int]] = set()
    for inner, path, info in walk(root):
        inode = (info.st_dev, info.st_ino)
        if inode not in seen:
            if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                seen.add(inode)
            _give(f"/proc/self/fd/{inner.fd}/{path}", info, maps)
    _give(str(root), os.lstat(root), maps)


def _give(path: str, info: os.stat_result, maps: IdMaps) -> None:
    uid, gid = _outside(maps.uid, info.st_uid), _outside(maps.gid, info.st_gid)
    if (uid, gid) == (info.st_uid, info.st_gid):
        return
    capability = b""
    if stat.S_ISREG(info.st_mode):
        with suppress(OSError):
            capability = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
    os.chown(path, uid, gid, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode) and info.st_mode & 0o6000:
        os.chmod(path, stat.S_IMODE(info.st_mode))  # noqa: PTH101
    if capability:
        os.setxattr(path, _CAPABILITY, namespaced(capability, maps.uid(0)), follow_symlinks=False)


def _outside(map: Callable[[int], int], id: int) -> int:
    try:
        return map(id)
    except InvalidArgument:
        return id


def namespaced(capability: bytes, root: int) -> bytes:
    """File capabilities that count in the user namespace whose root is ``root`` outside."""
    (magic,) = struct.unpack_from("<I", capability)
    if magic & _REVISION_MASK != _REVISION_2:
        return capability
    return (
        struct.pack("<I", magic & ~_REVISION_MASK | _REVISION_3) + capability[4:20] + struct.pack("<I", root)
    )
