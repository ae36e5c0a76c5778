"""Work on directory trees that others filled: of any depth, never through a symlink, without recursion.

A container can nest directories deeper than a path can name and than this process may hold files open.
So trees are walked by (open directory, short relative path), and a new directory is opened only every
couple of thousand bytes of path.

Everything here blocks: call it in a thread.
"""

# Descriptors, and paths that are no Path.
# ruff: noqa: PTH105, PTH106, PTH108, PTH123

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import Internal, OrlopError, PermissionDenied, ResourceExhausted
from .values import Usage

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_SYS_OPENAT2 = 437  # the same on every architecture but alpha
# linux/fs.h: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS (which take an int, whatever their numbers say), FS_TOPDIR_FL
_GET_FLAGS, _SET_FLAGS, _UNRELATED = 0x80086601, 0x40086602, 0x00020000
_REBASE = 2048
_NEXT_TO_NOTHING = 64 << 10
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def openat2(dir_fd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2): open ``path`` below ``dir_fd`` under the rules of ``resolve``; the descriptor is CLOEXEC.

    :raises OSError: as the system call; ELOOP or EXDEV where a rule of ``resolve`` was broken
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        fd = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(dir_fd),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        # EAGAIN: something was renamed meanwhile and the kernel could not tell whether we stayed below.
        if number not in (errno.EINTR, errno.EAGAIN):
            raise OSError(number, os.strerror(number), os.fsdecode(path))


class Folder:
    """An open directory that closes itself when nobody holds it any more."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def open(cls, path: str | bytes | os.PathLike[str]) -> Folder:
        """Open a directory; symlinks in ``path`` are followed but for the last part."""
        return cls(os.open(path, _FOLDER))

    def below(self, path: str) -> Folder:
        """Open a directory below this one, through no symlink. ``path`` "" is this one again."""
        if not path:
            return self.again()
        return Folder(openat2(self.fd, path, _FOLDER, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS))

    def again(self) -> Folder:
        """Open this directory once more: btrfs lists to each who opened it what there was then, no more."""
        return Folder(os.open(".", _FOLDER, dir_fd=self.fd))

    def near(self, path: str) -> tuple[Folder, str]:
        """A base and a path that lead to the same directory and are short enough to add names to."""
        return (self.below(path), "") if len(path) > _REBASE else (self, path)

    def __del__(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def scan(folder: Folder, path: str = "") -> list[tuple[str, os.stat_result]]:
    """The names in a directory below ``folder`` with their lstat, sorted by name.

    What vanishes while it is read is left out.
    """
    here = folder.below(path)
    found: list[tuple[str, os.stat_result]] = []
    with os.scandir(here.fd) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                found.append((entry.name, entry.stat(follow_symlinks=False)))
    found.sort(key=lambda item: os.fsencode(item[0]))
    return found


def walk(top: str | os.PathLike[str] | Folder) -> Iterator[tuple[Folder, str, os.stat_result]]:
    """Everything below ``top`` as (folder, path, lstat): the file is ``path`` below the open ``folder``.

    A directory comes before what is in it. Other filesystems mounted below are entered.
    """
    root = top if isinstance(top, Folder) else Folder.open(top)
    pending: list[tuple[Folder, str]] = [(root, "")]
    while pending:
        folder, path = pending.pop()
        folder, path = folder.near(path)
        below: list[tuple[Folder, str]] = []
        for name, info in scan(folder, path):
            inner = f"{path}/{name}" if path else name
            yield folder, inner, info
            if stat.S_ISDIR(info.st_mode):
                below.append((folder, inner))
        pending += reversed(below)


def disk_usage(top: str | os.PathLike[str]) -> Usage:
    """Inodes and bytes on disk of a tree, its top included, hard links counted once."""
    info = os.lstat(top)
    seen = {(info.st_dev, info.st_ino)}
    size = info.st_blocks * 512
    try:
        for _, _, info in walk(top):
            inode = (info.st_dev, info.st_ino)
            if inode not in seen:
                seen.add(inode)
                size += info.st_blocks * 512
    except (FileNotFoundError, NotADirectoryError):
        pass  # a live tree: a directory went away between its name and its content
    return Usage(inodes=len(seen), size=size)


def remove_tree(top: str | bytes | os.PathLike[str], *, stop: Callable[[], bool] = lambda: False) -> None:
    """Delete a tree, however deep. A missing one is no error.

    Nested directories are moved up beside ``top`` first, so that no path grows and no descriptors
    pile up; an interrupted removal leaves them below ``top`` to be removed next time.

    :param stop: asked now and then; true ends the removal early
    :raises OSError: something could not be removed (EBUSY: it is mounted on)
    """
    try:
        info = os.lstat(top)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(top)
        return
    root = _open_folder(top)
    moved = 0
    while not stop():
        now = root.again()
        with os.scandir(now.fd) as entries:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        if not names:
            break
        for name, is_dir in names:
            if not is_dir:
                os.unlink(name, dir_fd=root.fd)
                continue
            with contextlib.suppress(OSError):  # empty more often than not; else the listing tells why
                os.rmdir(name, dir_fd=root.fd)
                continue
            child = _open_folder(name, dir_fd=root.fd)
            with os.scandir(child.fd) as entries:
                inner = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for leaf, leaf_is_dir in inner:
                if leaf_is_dir:
                    try:
                        os.rmdir(leaf, dir_fd=child.fd)
                    except OSError:
                        moved = _move_up(leaf, child, root, moved)
                else:
                    os.unlink(leaf, dir_fd=child.fd)
            os.rmdir(name, dir_fd=root.fd)
        if stop():
            return
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(top)


def _open_folder(path: str | bytes | os.PathLike[str], dir_fd: int | None = None) -> Folder:
    try:
        return Folder(os.open(path, _FOLDER, dir_fd=dir_fd))
    except PermissionError:  # rootless: our own directory of mode 000, as overlay's work directory
        os.chmod(path, 0o700, dir_fd=dir_fd)
        return Folder(os.open(path, _FOLDER, dir_fd=dir_fd))


def _move_up(name: str, child: Folder, root: Folder, moved: int) -> int:
    while True:
        moved += 1
        try:
            # A directory cannot replace one that is not empty, nor a file: a taken name is an error.
            os.rename(name, f".moved-{moved}", src_dir_fd=child.fd, dst_dir_fd=root.fd)
            return moved
        except FileExistsError:
            continue
        except NotADirectoryError:
            continue
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make renames in a directory durable."""
    folder = Folder.open(path)
    os.fsync(folder.fd)


def spread_folder(path: str | os.PathLike[str]) -> None:
    """Tell the filesystem that what is in the directories of ``path`` is not related (chattr +T).

    ext4 then gives each of them, with what is in it, another part of the disk: several can be filled at once
    without waiting for each other, and without looking through the inodes of those that were just deleted.
    Others do not know it, and nothing happens.
    """
    folder = Folder.open(path)
    with contextlib.suppress(OSError):
        flags = bytearray(4)
        fcntl.ioctl(folder.fd, _GET_FLAGS, flags)
        wanted = int.from_bytes(flags, sys.byteorder) | _UNRELATED
        fcntl.ioctl(folder.fd, _SET_FLAGS, wanted.to_bytes(4, sys.byteorder))


def sync_filesystem(path: str | os.PathLike[str]) -> None:
    """Make everything durable that was written to the filesystem of the directory ``path``, by anybody.

    For trees of many files: one call that lets the kernel write in its own order, where an fsync for each
    file would commit the journal once for each.

    :raises OSError: something could not be written
    """
    folder = Folder.open(path)
    if _libc.syncfs(ctypes.c_int(folder.fd)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(path))


def write_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a small file as a whole and durably: write, fsync, rename, fsync the folder."""
    part = path.with_name(f".{path.name}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with open(fd, "wb", closefd=True) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def disk_full(tried: str) -> ResourceExhausted:
    """The error for a full disk. :param tried: as in :func:`explain`"""
    message = f"{tried}: {os.strerror(errno.ENOSPC)}"
    return ResourceExhausted(message, reason="DISK_FULL", hint="free some space: orlop system prune")


def disk_is_full(path: str | os.PathLike[str]) -> bool:
    """Whether there is next to no space left where ``path`` is; SQLite does not always tell."""
    try:
        found = os.statvfs(path)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _NEXT_TO_NOTHING


def explain(error: OSError, tried: str) -> OrlopError:
    """Turn what the operating system said into an error of the house.

    :param tried: what was tried, as the beginning of a sentence: ``cannot write layer …``
    """
    message = f"{tried}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(tried)
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG):
        return ResourceExhausted(message)
    if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        return PermissionDenied(message)
    return Internal(message)
