"""Mounting without mount(8): what a snapshotter returned, made visible in a directory.

Everything here is synchronous and blocks: call it in a thread. The module imports little, because shims and
workers use it too. It speaks for the process's own mount namespace and needs CAP_SYS_ADMIN there.
"""

# Descriptors, and paths that are no Path.
# ruff: noqa: PTH115, PTH123

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import _idmap, _overlay, loop
from ._syscalls import CLONE_NEWNS, MS, PR_SET_PDEATHSIG, libc_mount, libc_umount, prctl, unshare
from .errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OrlopError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from .files import RESOLVE_IN_ROOT, openat2
from .values import Mount

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
_PAGE = ctypes.CDLL(None).getpagesize()

# Option: (flag, whether the option clears it), as mount(8) and fstab(5) have them.
_FLAGS: dict[str, tuple[int, bool]] = {
    "async": (MS.SYNCHRONOUS, True),
    "atime": (MS.NOATIME, True),
    "bind": (MS.BIND, False),
    "defaults": (0, False),
    "dev": (MS.NODEV, True),
    "diratime": (MS.NODIRATIME, True),
    "dirsync": (MS.DIRSYNC, False),
    "exec": (MS.NOEXEC, True),
    "lazytime": (MS.LAZYTIME, False),
    "loud": (MS.SILENT, True),
    "mand": (MS.MANDLOCK, False),
    "noatime": (MS.NOATIME, False),
    "nodev": (MS.NODEV, False),
    "nodiratime": (MS.NODIRATIME, False),
    "noexec": (MS.NOEXEC, False),
    "nolazytime": (MS.LAZYTIME, True),
    "nomand": (MS.MANDLOCK, True),
    "norelatime": (MS.RELATIME, True),
    "nostrictatime": (MS.STRICTATIME, True),
    "nosuid": (MS.NOSUID, False),
    "nosymfollow": (MS.NOSYMFOLLOW, False),
    "rbind": (MS.BIND | MS.REC, False),
    "relatime": (MS.RELATIME, False),
    "remount": (MS.REMOUNT, False),
    "ro": (MS.RDONLY, False),
    "rw": (MS.RDONLY, True),
    "silent": (MS.SILENT, False),
    "strictatime": (MS.STRICTATIME, False),
    "suid": (MS.NOSUID, True),
    "symfollow": (MS.NOSYMFOLLOW, True),
    "sync": (MS.SYNCHRONOUS, False),
}
_PROPAGATION: dict[str, int] = {
    "private": MS.PRIVATE,
    "rprivate": MS.PRIVATE | MS.REC,
    "rshared": MS.SHARED | MS.REC,
    "rslave": MS.SLAVE | MS.REC,
    "runbindable": MS.UNBINDABLE | MS.REC,
    "shared": MS.SHARED,
    "slave": MS.SLAVE,
    "unbindable": MS.UNBINDABLE,
}
# What a remount of a bind mount must repeat to keep.
_KEPT = (
    (1, MS.RDONLY),
    (2, MS.NOSUID),
    (4, MS.NODEV),
    (8, MS.NOEXEC),
    (1024, MS.NOATIME),
    (2048, MS.NODIRATIME),
)


@dataclass(frozen=True, slots=True)
class Options:
    """Mount options taken apart: ``flags`` for mount(2), ``propagation`` changes to make after, and the
    filesystem's own ``data``."""

    flags: int = 0
    propagation: tuple[int, ...] = ()
    data: tuple[str, ...] = ()


def parse_options(options: Sequence[str]) -> Options:
    """Take options apart as mount(8) does: the last of two that contradict wins, ``x-…`` are for others."""
    flags = 0
    propagation: list[int] = []
    data: list[str] = []
    for option in options:
        if option in _FLAGS:
            flag, clears = _FLAGS[option]
            flags = flags & ~flag if clears else flags | flag
        elif option in _PROPAGATION:
            propagation.append(_PROPAGATION[option])
        elif option and not option.startswith(("x-", "X-", "comment=")):
            data.append(option)
    return Options(flags, tuple(propagation), tuple(data))


def mount(mount: Mount, target: str | Path) -> None:
    """Perform one mount on ``target``, which exists. ``mount.target`` is a path inside it, as containerd has
    it; symlinks on the way to it are resolved as if ``target`` were the root. With the option ``loop`` the
    source is a file, which gets a loop device.

    :raises NotFound: source or target is not there
    :raises Unimplemented: the kernel does not know this filesystem
    :raises InvalidArgument: the options are malformed or too long, or an overlay of more than 500 layers
    :raises FailedPrecondition: the kernel refused the combination
    :raises PermissionDenied: not root, or forbidden here
    """
    with _target(str(target), mount.target) as path:
        try:
            _mount(mount, path)
        except OSError as error:
            raise _explain(mount, str(target), error) from error


def mount_all(mounts: Sequence[Mount], target: str | Path) -> None:
    """Perform ``mounts`` in order on ``target``; on failure what was mounted is unmounted again.

    Raises as :func:`mount`.
    """
    done = 0
    try:
        for item in mounts:
            mount(item, target)
            done += 1
    except BaseException:
        if done:
            unmount(target, detach=True)
        raise


def unmount(target: str | Path, *, detach: bool = False) -> None:
    """Unmount everything on ``target`` and below it, the latest first. Nothing mounted is no error.

    :param detach: take it out of sight at once, and let go of it when its last user is gone
    :raises FailedPrecondition: something is in use (and ``detach`` is false)
    :raises PermissionDenied: not allowed here
    """
    for point in reversed(mount_points(target)):
        _unmount(point, detach)


def escape_option(path: str, *, lower: bool = False) -> str:
    """Write a path so that overlay reads it back from its options.

    :param lower: it is one of the paths in ``lowerdir=``, which colons part
    """
    return _overlay.escape(path, lower=lower)


@dataclass(frozen=True, slots=True)
class OverlayLayers:
    """The directories of an overlay mount, unescaped; ``lower`` has the topmost first."""

    upper: str
    lower: tuple[str, ...]
    linked: bool
    """Directories or files may refer to lower ones (redirect_dir, metacopy), so that the upper directory
    alone does not tell what is in it."""

    @property
    def stack(self) -> tuple[str, ...]:
        """All of them, topmost first."""
        return (self.upper, *self.lower) if self.upper else self.lower


def overlay_layers(mount: Mount) -> OverlayLayers:
    """Take the options of an overlay mount apart."""
    values = {key: value for key, equals, value in (o.partition("=") for o in mount.options) if equals}
    linked = False
    for name in ("redirect_dir", "metacopy"):
        value = values.get(name) or _overlay.default(name)
        linked = linked or value not in ("off", "N", "nofollow", "")
    return OverlayLayers(
        upper=_overlay.unescape(values.get("upperdir", "")),
        lower=tuple(_overlay.split_lower(values.get("lowerdir", ""))),
        linked=linked,
    )


def make_private() -> None:
    """Give this process a mount namespace of its own: what it mounts from now on is its own affair and goes
    when it ends. The process must have one thread.

    :raises OSError: not allowed
    """
    unshare(CLONE_NEWNS)
    libc_mount("none", "/", "", MS.REC | MS.PRIVATE, "")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that made it ends (PR_SET_PDEATHSIG)."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def mount_points(target: str | Path) -> list[str]:
    """The mount points at ``target`` and below it, in the order they were mounted; one twice if stacked."""
    top = os.path.realpath(target)
    below = "/" if top == "/" else top + "/"
    found: list[str] = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            point = unescape(line.split(" ", 5)[4])
            if point == top or point.startswith(below):
                found.append(point)
    return found


def unescape(text: str) -> str:
    """Undo the octal escapes of /proc/self/mountinfo (proc(5))."""
    if "\\" not in text:
        return text
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\043", "#"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def read_only(mounts: Sequence[Mount]) -> list[Mount]:
    """The same view without a way to write: an overlay's upper directory becomes its topmost lower one, so
    that a writable overlay on the same directories goes on undisturbed."""
    changed: list[Mount] = []
    for item in mounts:
        options = [option for option in item.options if option not in ("rw", "ro")]
        if item.type == "overlay":
            upper = next((o.partition("=")[2] for o in options if o.startswith("upperdir=")), "")
            if upper:
                lower = next((o.partition("=")[2] for o in options if o.startswith("lowerdir=")), "")
                dropped = ("upperdir=", "workdir=", "lowerdir=", "index=", "volatile")
                options = [option for option in options if not option.startswith(dropped)]
                upper = upper.replace(":", "\\:")
                options.append(f"lowerdir={upper}:{lower}" if lower else f"lowerdir={upper}")
        changed.append(replace(item, options=(*options, "ro")))
    return changed


@contextlib.contextmanager
def mounted(
    mounts: Sequence[Mount], *, folder: str | Path = "/tmp", readonly: bool = False
) -> Generator[Path]:
    """Show ``mounts`` in a fresh directory below ``folder`` for the time of a ``with`` block.

    The directory's parent is private (0700), so that set-id files are out of others' reach. Raises as
    :func:`mount`.
    """
    if readonly:
        mounts = read_only(mounts)
    outer = Path(folder) / f"orlop-mount-{os.urandom(8).hex()}"
    outer.mkdir(0o700)
    target = outer / "root"
    try:
        target.mkdir(0o700)
        mount_all(mounts, target)
        try:
            yield target
        finally:
            try:
                unmount(target)
            except FailedPrecondition:
                unmount(target, detach=True)
    finally:
        with contextlib.suppress(OSError):
            target.rmdir()
        with contextlib.suppress(OSError):
            outer.rmdir()


@contextlib.contextmanager
def _target(target: str, inside: str) -> Generator[str]:
    if not inside.strip("/"):
        yield target
        return
    top = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = openat2(top, inside, os.O_PATH, resolve=RESOLVE_IN_ROOT)
    except OSError as error:
        raise NotFound(f"cannot mount on {inside!r} in {target!r}: {error.strerror}") from error
    finally:
        os.close(top)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _mount(item: Mount, target: str) -> None:
    options = parse_options(item.options)
    flags = options.flags
    if item.type == "overlay":
        _overlay.mount(item.source or "overlay", target, flags, options.data, _PAGE)
    elif flags & MS.BIND and not flags & MS.REMOUNT:
        maps = dict(
            option.split("=", 1) for option in options.data if option.startswith(("uidmap=", "gidmap="))
        )
        if maps:
            uids, gids = (_idmap.parse(key, maps.get(key) or _idmap.SAME) for key in ("uidmap", "gidmap"))
            _idmap.bind(item.source, target, uids, gids)
            if flags & ~(MS.BIND | MS.REC):
                _remount_bind(target, flags)
            return
        libc_mount(item.source, target, "", flags & (MS.BIND | MS.REC), "")
        if flags & ~(MS.BIND | MS.REC):
            try:
                _remount_bind(target, flags)
            except OSError:
                libc_umount(target, MNT_DETACH)
                raise
    elif "loop" in options.data:
        rest = tuple(option for option in item.options if option != "loop")
        with loop.attached(item.source, readonly=bool(flags & MS.RDONLY)) as device:
            _mount(replace(item, source=device, options=rest), target)
        return
    else:
        data = ",".join(options.data)
        if len(os.fsencode(data)) >= _PAGE:
            raise InvalidArgument(f"mount options of {len(data)} bytes for {item.type}: a page is the most")
        libc_mount(item.source, target, item.type, flags, data)
    for change in options.propagation:
        libc_mount("none", target, "", change, "")


def _remount_bind(target: str, flags: int) -> None:
    # /proc/self/fd/N leads below what was just mounted; a path leads onto it.
    path = os.readlink(target) if target.startswith("/proc/self/fd/") else target
    present = os.statvfs(path).f_flag
    kept = sum(flag for bit, flag in _KEPT if present & bit)
    libc_mount("none", path, "", (flags & ~MS.REC) | kept | MS.BIND | MS.REMOUNT, "")


def _unmount(point: str, detach: bool) -> None:
    try:
        libc_umount(point, UMOUNT_NOFOLLOW | (MNT_DETACH if detach else 0))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):  # somebody else was faster
            return
        if error.errno == errno.EBUSY:
            raise FailedPrecondition(
                f"cannot unmount {point!r}: it is in use",
                reason="MOUNT_BUSY",
                hint="end what has files open there, or a working directory",
            ) from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise PermissionDenied(f"cannot unmount {point!r}: {error.strerror}") from error
        raise Internal(f"cannot unmount {point!r}: {error.strerror}") from error


_KINDS: dict[int, type[OrlopError]] = {
    errno.EACCES: PermissionDenied,
    errno.EBUSY: Unavailable,
    errno.EINVAL: FailedPrecondition,
    errno.ELOOP: FailedPrecondition,
    errno.EMFILE: ResourceExhausted,
    errno.ENAMETOOLONG: InvalidArgument,
    errno.ENODEV: Unimplemented,
    errno.ENOENT: NotFound,
    errno.ENOMEM: ResourceExhausted,
    errno.ENOSPC: ResourceExhausted,
    errno.ENOTBLK: FailedPrecondition,
    errno.ENOTDIR: FailedPrecondition,
    errno.EPERM: PermissionDenied,
    errno.ESTALE: FailedPrecondition,
}


def _explain(item: Mount, target: str, error: OSError) -> OrlopError:
    tried = f"{item.type or 'bind'} mount of {item.source!r} on {target!r}"
    options = ",".join(item.options)
    if options:
        tried += f" with {options if len(options) < 400 else options[:400] + '…'}"
    said = error.strerror or str(error)
    hint = ""
    if error.errno == errno.ENODEV:
        hint = f"this kernel has no filesystem {item.type!r}"
    elif error.errno == errno.EINVAL:
        hint = "the kernel log may say more: dmesg | tail"
    return _KINDS.get(error.errno or 0, Internal)(f"{tried}: {said}", reason="MOUNT_FAILED", hint=hint)
