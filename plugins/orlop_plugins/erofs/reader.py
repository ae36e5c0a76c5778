"""Reading back the tree of an image that :mod:`.metadata` wrote."""

from __future__ import annotations

import os
import stat
import struct

from orlopd.plugin.errors import Internal

from . import xattrs
from .blocks import BLOCK
from .metadata import CHUNKED, DIRENT, INLINE, INODE, ROOT_NID, SLOT, Superblock
from .nodes import Node
from .sparse import map_size


def read_root(fd: int) -> Node:
    """The root directory's attributes, without what is in it. :raises Internal: that is no image of ours"""
    try:
        return _Image(fd).inode(ROOT_NID)[0]
    except (ValueError, KeyError, struct.error) as error:
        raise Internal(f"the EROFS image cannot be read: {error}") from error


def read_tree(fd: int) -> Node:
    """The whole tree, fit for writing it again. :raises Internal: that is no image of ours"""
    try:
        return _Image(fd).tree()
    except (ValueError, KeyError, struct.error) as error:
        raise Internal(f"the EROFS image cannot be read: {error}") from error


class _Image:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._begin = Superblock.read(fd).metadata * BLOCK

    def inode(self, nid: int) -> tuple[Node, bytes]:
        """An inode, and the data of a directory or symlink."""
        at = self._begin + nid * SLOT
        fields = INODE.unpack(os.pread(self._fd, INODE.size, at))
        layout, count, mode, size, where, _, uid, gid, seconds, nanoseconds, names = fields
        at += INODE.size
        length = xattrs.size(count)
        found = xattrs.decode(os.pread(self._fd, length, at)) if length else None
        mtime = seconds * 1_000_000_000 + nanoseconds
        node = Node(mode, uid, gid, mtime, size, where, names, found)
        if stat.S_ISDIR(mode):
            node.entries = {}
        elif not stat.S_ISLNK(mode):
            if layout == CHUNKED:
                node.chunks = os.pread(self._fd, map_size(size), at + length)
            return node, b""
        tail = size % BLOCK if layout == INLINE else 0
        data = os.pread(self._fd, size - tail, where * BLOCK) if size > tail else b""
        return node, data + os.pread(self._fd, tail, at + length)

    def tree(self) -> Node:
        root, data = self.inode(ROOT_NID)
        seen = {ROOT_NID: root}
        pending = [(root, data)]
        while pending:
            folder, data = pending.pop()
            assert folder.entries is not None
            for name, nid in _entries(data):
                node = seen.get(nid)
                if node is None:
                    node, contents = self.inode(nid)
                    seen[nid] = node
                    if node.entries is not None:
                        pending.append((node, contents))
                    else:
                        node.target = contents
                elif node.entries is not None:
                    raise ValueError("a directory with two names")
                folder.entries[name] = node
        return root


def _entries(data: bytes) -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []
    for at in range(0, len(data), BLOCK):
        block = data[at : at + BLOCK]
        heads = [
            DIRENT.unpack_from(block, each) for each in range(0, DIRENT.unpack_from(block)[1], DIRENT.size)
        ]
        ends = [head[1] for head in heads[1:]] + [len(block)]
        for (nid, begin, _), end in zip(heads, ends, strict=True):
            name = block[begin:end].rstrip(b"\0")
            if name not in (b".", b".."):
                found.append((name, nid))
    return found
