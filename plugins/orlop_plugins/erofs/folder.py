"""From a directory to an image."""

# Descriptors, and paths below open folders.

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from orlopd.plugin.files import Folder, scan

from .blocks import BLOCK, Blocks
from .metadata import write
from .nodes import Node
from .sparse import SparseFile

_READ = 1 << 20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def write_folder(source: Path, fd: int) -> None:
    """Write all that is in ``source`` into the image ``fd``, empty and open for writing.

    :raises InvalidArgument: something cannot be in an EROFS image
    :raises OSError: something cannot be read or written
    """
    out = Blocks(fd, BLOCK)
    folder = Folder.open(source)
    root = _node(folder, "", os.fstat(folder.fd))
    linked: dict[tuple[int, int], Node] = {}
    pending = [(root, folder, "")]
    while pending:
        node, folder, path = pending.pop()
        folder, path = folder.near(path)
        assert node.entries is not None
        for name, info in scan(folder, path):
            inner = f"{path}/{name}" if path else name
            inode = (info.st_dev, info.st_ino)
            child = linked.get(inode) if info.st_nlink > 1 else None
            if child is None:
                child = _node(folder, inner, info)
                if stat.S_ISREG(info.st_mode):
                    _copy(folder, inner, child, out)
                if info.st_nlink > 1:
                    linked[inode] = child
            if child.entries is not None:
                pending.append((child, folder, inner))
            node.entries[os.fsencode(name)] = child
    write(out, fd, root)


def _node(folder: Folder, path: str, info: os.stat_result) -> Node:
    node = Node(info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns)
    here = f"/proc/self/fd/{folder.fd}/{path}"
    if stat.S_ISDIR(info.st_mode):
        node.entries = {}
    elif stat.S_ISLNK(info.st_mode):
        node.target = os.fsencode(os.readlink(path, dir_fd=folder.fd))
    elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        major, minor = os.major(info.st_rdev), os.minor(info.st_rdev)
        node.where = (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
    try:
        for name in os.listxattr(here, follow_symlinks=False):
            node.set(os.fsencode(name), os.getxattr(here, name, follow_symlinks=False))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    return node


def _copy(folder: Folder, path: str, node: Node, out: Blocks) -> None:
    source = os.open(path, _OPEN, dir_fd=folder.fd)
    try:
        info = os.fstat(source)
        node.where, node.size = out.block, info.st_size
        if info.st_blocks * 512 < info.st_size:
            sparse = SparseFile(out, info.st_size)
            end = 0
            while (begin := _next(source, end, os.SEEK_DATA, info.st_size)) < info.st_size:
                end = _next(source, begin, os.SEEK_HOLE, info.st_size)
                for at, data in _pieces(source, begin, end):
                    sparse.add(at, data)
            node.chunks = sparse.end()
        else:
            for _, data in _pieces(source, 0, info.st_size):
                out.add(data)
            out.pad()
    finally:
        os.close(source)


def _pieces(fd: int, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    while begin < end:
        data = os.pread(fd, min(_READ, end - begin), begin)
        if not data:
            raise OSError(errno.EBUSY, "a file became shorter")
        yield begin, data
        begin += len(data)


def _next(fd: int, at: int, what: int, end: int) -> int:
    try:
        return min(os.lseek(fd, at, what), end)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return end
