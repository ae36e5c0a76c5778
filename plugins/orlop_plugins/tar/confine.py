"""Locking a worker process into the directory it works on.

What the process needs from outside it opens first. Then it gets a mount namespace of its own, in which it
mounts what it has to (the kernel undoes that when the process ends, however it ends), and the directory
becomes its root. From then on Python imports nothing: a module in the container's tree is not ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orlopd.plugin.errors import FailedPrecondition, PermissionDenied
from orlopd.plugin.files import Folder
from orlopd.plugin.mount import make_private, mount_all, overlay_layers, read_only
from orlopd.plugin.rebase import Below, implied, opaque, plain
from orlopd.plugin.values import Mount

from .tree import Lowers, Whiteouts


@dataclass(frozen=True, slots=True)
class Ground:
    """Where an archive is applied: a directory to go to, or mounts to perform on ``scratch`` first."""

    directory: str = ""
    whiteouts: Whiteouts = Whiteouts.DELETE
    lowers: Lowers = field(default_factory=Lowers)


def ground(mounts: Sequence[Mount], *, direct: bool) -> Ground:
    """How to write to what ``mounts`` show.

    :param direct: an overlay's upper directory may be written without mounting: nobody else has it mounted
    :raises FailedPrecondition: nothing there can be written
    """
    if not mounts:
        raise FailedPrecondition("no mounts to apply the archive to")
    if len(mounts) > 1:
        return Ground()
    (only,) = mounts
    if "ro" in only.options and (only.type == "overlay" or _is_bind(only)):
        raise FailedPrecondition("the archive cannot be applied to a read-only view")
    if only.type == "overlay" and direct:
        layers = overlay_layers(only)
        if not layers.upper:
            raise FailedPrecondition("the archive cannot be applied to an overlay without an upper directory")
        if not layers.linked or not layers.lower:
            userxattr = "userxattr" in only.options
            lowers = Lowers(
                Below([Folder.open(path) for path in layers.lower], userxattr=userxattr),
                opaque(userxattr=userxattr),
                implied(userxattr=userxattr),
                plain(userxattr=userxattr),
                later=not layers.lower,
            )
            return Ground(layers.upper, Whiteouts.OVERLAY, lowers)
    if _is_bind(only) and not only.target:
        return Ground(only.source)
    return Ground()


def _is_bind(mount: Mount) -> bool:
    return mount.type in ("bind", "rbind") or "bind" in mount.options or "rbind" in mount.options


def enter(mounts: Sequence[Mount], where: Ground, scratch: str) -> None:
    """Confine this process to where the archive goes.

    :param scratch: an empty directory to mount on, in this process's view only
    """
    own_namespace()
    if where.directory:
        lock_into(where.directory)
        return
    mount_all(mounts, scratch)
    lock_into(scratch)


def enter_trees(
    lower: Sequence[Mount], upper: Sequence[Mount], scratch: str
) -> tuple[Folder | None, Folder, bool]:
    """Confine this process to two trees, ``/lower`` and ``/upper``, both read-only.

    :returns: the open trees, None for no lower one, and whether the upper one is an overlay's bare upper
        directory: only what changed, with overlay's marks
    """
    own_namespace()
    mount_all([Mount("tmpfs", "tmpfs", ("size=64k", "mode=0700"))], scratch)
    for name in ("lower", "upper"):
        Path(scratch, name).mkdir()
    bare = _bare(lower, upper)
    mount_all(read_only(lower), f"{scratch}/lower")
    mount_all([Mount("bind", bare, ("bind", "ro"))] if bare else read_only(upper), f"{scratch}/upper")
    lock_into(scratch)
    return Folder.open("/lower") if lower else None, Folder.open("/upper"), bool(bare)


def _bare(lower: Sequence[Mount], upper: Sequence[Mount]) -> str:
    """The upper directory of ``upper``, if it is an overlay right on top of what ``lower`` shows."""
    if len(lower) != 1 or len(upper) != 1 or upper[0].type != "overlay":
        return ""
    top, below = overlay_layers(upper[0]), lower[0]
    if not top.upper or top.linked:
        return ""
    shown = overlay_layers(below).stack if below.type == "overlay" else (below.source,)
    return top.upper if shown == top.lower else ""


def own_namespace() -> None:
    """Give this process a mount namespace of its own, from which nothing gets out."""
    try:
        make_private()
    except OSError as error:
        raise PermissionDenied(
            f"cannot make a mount namespace for unpacking: {error.strerror}",
            hint="the daemon needs CAP_SYS_ADMIN, or a user namespace of its own",
        ) from error


def lock_into(directory: str) -> None:
    """Make ``directory`` the root, and stop Python from importing."""
    os.chroot(directory)
    os.chdir("/")
    os.umask(0)
    sys.path.clear()
    sys.path_hooks.clear()
    sys.meta_path.clear()
    sys.path_importer_cache.clear()
