"""Copying a tree so that nobody can tell the difference."""

# Descriptors, and paths that are no Path.
# ruff: noqa: PTH101, PTH116

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from orlopd.plugin.files import Folder, scan

_FICLONE = 0x40049409
_CHUNK = 1 << 30
_NO_REFLINK = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}


def copy_tree(source: Path, target: Path) -> None:
    """Copy what is in ``source`` into the empty directory ``target``: contents (shared with the original
    where the filesystem can), holes, hard links, devices, owners, modes, xattrs and times, of the top
    directory too. Trees of any depth.

    :raises OSError: something could not be copied
    """
    _Copy().tree(Folder.open(source), Folder.open(target))


class _Copy:
    def __init__(self) -> None:
        self._reflink = True
        # First copy of an inode with several names, by (device, inode).
        self._linked: dict[tuple[int, int], tuple[Folder, str]] = {}

    def tree(self, source: Folder, target: Folder) -> None:
        # A stack entry without a listing ahead of it finishes its directory once all below is done.
        pending: list[tuple[Folder, Folder, str, os.stat_result | None]] = [(source, target, "", None)]
        while pending:
            old, new, path, done = pending.pop()
            if done is not None:
                _attributes(_at(old, path), _at(new, path), done)
                continue
            if len(path) > 2048:
                info = os.stat(_at(old, path))
                pending.append((old, new, path, info))
                old, new, path = old.below(path), new.below(path), ""
            else:
                pending.append((old, new, path, os.stat(_at(old, path))))
            for name, info in scan(old, path):
                inner = f"{path}/{name}" if path else name
                if stat.S_ISDIR(info.st_mode):
                    os.mkdir(inner, 0o700, dir_fd=new.fd)
                    pending.append((old, new, inner, None))
                else:
                    self._leaf(old, new, inner, info)

    def _leaf(self, old: Folder, new: Folder, path: str, info: os.stat_result) -> None:
        inode = (info.st_dev, info.st_ino)
        if info.st_nlink > 1:
            if inode in self._linked:
                base, first = self._linked[inode]
                os.link(first, path, src_dir_fd=base.fd, dst_dir_fd=new.fd, follow_symlinks=False)
                return
            self._linked[inode] = (new, path)
        if stat.S_ISREG(info.st_mode):
            self._file(old, new, path, info)
        elif stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(path, dir_fd=old.fd), path, dir_fd=new.fd)
        else:
            os.mknod(path, info.st_mode, info.st_rdev, dir_fd=new.fd)
        _attributes(_at(old, path), _at(new, path), info)

    def _file(self, old: Folder, new: Folder, path: str, info: os.stat_result) -> None:
        reading = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME, dir_fd=old.fd)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            writing = os.open(path, flags, 0o600, dir_fd=new.fd)
            try:
                self._content(reading, writing, info.st_size)
            finally:
                os.close(writing)
        finally:
            os.close(reading)

    def _content(self, reading: int, writing: int, size: int) -> None:
        if self._reflink and size:
            try:
                fcntl.ioctl(writing, _FICLONE, reading)
            except OSError as error:
                if error.errno not in _NO_REFLINK:
                    raise
                self._reflink = False  # one filesystem: what it cannot once it never can
            else:
                return
        os.ftruncate(writing, size)
        at = 0
        while at < size:
            try:
                begin = os.lseek(reading, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return  # a hole up to the end
            at = os.lseek(reading, begin, os.SEEK_HOLE)
            _span(reading, writing, begin, at)


def _span(reading: int, writing: int, begin: int, end: int) -> None:
    while begin < end:
        done = os.copy_file_range(reading, writing, min(end - begin, _CHUNK), begin, begin)
        if done == 0:
            return  # shorter than its stat said
        begin += done


def _at(folder: Folder, path: str) -> str:
    return f"/proc/self/fd/{folder.fd}/{path}"


def _attributes(old: str, new: str, info: os.stat_result) -> None:
    # Owner first: chown clears set-id bits and capabilities.
    os.chown(new, info.st_uid, info.st_gid, follow_symlinks=False)
    for name in os.listxattr(old, follow_symlinks=False):
        os.setxattr(new, name, os.getxattr(old, name, follow_symlinks=False), follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(new, stat.S_IMODE(info.st_mode))
    os.utime(new, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)
