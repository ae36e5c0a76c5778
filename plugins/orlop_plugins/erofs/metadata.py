"""The metadata of an EROFS image: superblock, inodes and directories.

Facts from the kernel's documentation (filesystems/erofs) and its header erofs_fs.h. All inodes are extended
ones of 64 bytes, numbered by where they stand, in units of 32 bytes from the start of the metadata area. Data
is never compressed: it is in blocks of its own or, for a directory's last block and a symlink's target, right
behind the inode, if it fits into the block there. Behind that of a file with holes is the map of its chunks.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from . import xattrs
from .blocks import BLOCK, Blocks
from .nodes import Node
from .sparse import chunk_shift

MAGIC = 0xE0F5E1E2
AT = 1024
SLOT = 32
ROOT_NID = 2
"""The root inode has the first block of the metadata area for itself, so that it can be changed in place. It
is not at the block's start, since inode 0 would be nobody's."""
PLAIN, INLINE, CHUNKED = 1, 1 | 2 << 1, 1 | 4 << 1  # an extended inode, and where its data is
SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24x")
INODE = struct.Struct("<HHHxxQIIIIqII16x")
DIRENT = struct.Struct("<QHBx")

_ROOT_ROOM = BLOCK - ROOT_NID * SLOT - INODE.size
_CHECKSUM, _MTIME, _HAS_CHUNKS = 1, 2, 4
_MOST_INLINE = BLOCK // 2
_NANO = 1_000_000_000
_KINDS = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}


@dataclass(frozen=True, slots=True)
class Superblock:
    """Where the metadata area begins (in blocks), and how much there is in the image."""

    metadata: int
    inodes: int
    blocks: int
    chunks: bool = False

    def write(self, fd: int) -> None:
        """Put it at its place; from then on this is the image."""
        blank = self._encode(0)
        os.pwrite(fd, bytes(AT) + self._encode(_crc32c(blank)), 0)

    def _encode(self, checksum: int) -> bytes:
        head = (MAGIC, checksum, _CHECKSUM | _MTIME, 12, 0, ROOT_NID, self.inodes, 0, 0)
        none = bytes(16)
        chunks = _HAS_CHUNKS if self.chunks else 0
        data = SUPERBLOCK.pack(*head, self.blocks, self.metadata, 0, none, none, chunks, 0, 0, 0, 0, 0, 0, 0)
        return data.ljust(BLOCK - AT, b"\0")

    @classmethod
    def read(cls, fd: int) -> Superblock:
        """:raises ValueError: that is no EROFS image, or none of ours"""
        data = os.pread(fd, SUPERBLOCK.size, AT)
        fields = SUPERBLOCK.unpack(data.ljust(SUPERBLOCK.size, b"\0"))
        if fields[0] != MAGIC:
            raise ValueError("no EROFS image")
        if fields[3] != 12 or fields[5] != ROOT_NID:
            raise ValueError("an EROFS image of another maker")
        return cls(metadata=fields[10], inodes=fields[6], blocks=fields[9])


def write(out: Blocks, fd: int, root: Node) -> None:
    """Append the metadata of ``root`` and all below it, and have the superblock name it.

    :param root: a tree that was not written yet
    :raises InvalidArgument: something cannot be in an EROFS image
    :raises OSError: it cannot be written
    """
    out.pad()
    nodes, parents, size = _place(root)
    for node, parent in zip(nodes, parents, strict=True):
        if node.entries is None and not stat.S_ISLNK(node.mode):
            continue
        plain = node.size - _inline(node, root)
        if plain:
            node.where = out.block
            for block in _contents(node, parent):
                if plain > 0:
                    out.add(block)
                    out.pad()
                plain -= len(block)
    begin = out.at
    for number, (node, parent) in enumerate(zip(nodes, parents, strict=True), 1):
        out.add(bytes(begin + node.nid * SLOT - out.at))
        inline = _inline(node, root)
        out.add(_encode(node, number, inline=bool(inline)))
        if inline:
            *_, tail = _contents(node, parent)
            out.add(tail)
    out.add(bytes(begin + size - out.at))
    out.pad()
    out.flush()
    Superblock(begin // BLOCK, len(nodes), out.block, any(node.chunks for node in nodes)).write(fd)


def patch_root(fd: int, root: Node) -> bool:
    """Change the root directory's own attributes in an image, if there is room for them."""
    data = _encode(root, 1, inline=False)
    if len(data) > INODE.size + _ROOT_ROOM:
        return False
    begin = Superblock.read(fd).metadata * BLOCK + ROOT_NID * SLOT
    os.pwrite(fd, data.ljust(INODE.size + _ROOT_ROOM, b"\0"), begin)
    return True


def _place(root: Node) -> tuple[list[Node], list[Node], int]:
    """Number the inodes. Returns them in order, the directories they are in, and the bytes they take."""
    nodes: list[Node] = []
    parents: list[Node] = []
    pending = [(root, root)]
    at = ROOT_NID * SLOT
    while pending:
        node, parent = pending.pop()
        if node.nid >= 0:  # another name of it
            node.names += 1
            continue
        node.names = 1
        if node.entries is not None or node.target:
            node.where = 0
        if node.entries is not None:
            pending += [(node.entries[name], node) for name in sorted(node.entries, reverse=True)]
            node.names = 2 + sum(1 for each in node.entries.values() if each.entries is not None)
            node.size = _directory_size(node)
        elif stat.S_ISLNK(node.mode):
            node.size = len(node.target)
        inline = _inline(node, root)
        head = INODE.size + len(xattrs.encode(node.xattrs)) + len(node.chunks)
        if at % BLOCK + INODE.size > BLOCK or (inline and (at + head) % BLOCK + inline > BLOCK):
            at += -at % BLOCK
        node.nid = at // SLOT
        nodes.append(node)
        parents.append(parent)
        at += head + inline
        at += -at % (BLOCK if node is root else SLOT)
    return nodes, parents, at


def _inline(node: Node, root: Node) -> int:
    """How many bytes of a placed inode's data stand behind it."""
    if node is root or (node.entries is None and not node.target):
        return 0
    tail = node.size % BLOCK
    head = INODE.size + (len(xattrs.encode(node.xattrs)) if node.xattrs else 0)
    return tail if tail <= _MOST_INLINE and head + tail <= BLOCK else 0


def _encode(node: Node, number: int, *, inline: bool) -> bytes:
    data = xattrs.encode(node.xattrs)
    seconds, nanoseconds = divmod(node.mtime_ns, _NANO)
    mode = stat.S_IFLNK | 0o777 if stat.S_ISLNK(node.mode) else node.mode
    layout, where = INLINE if inline else PLAIN, node.where
    if node.chunks:
        layout, where = CHUNKED, chunk_shift(node.size)
    what = (layout, xattrs.count(len(data)), mode, node.size, where, number)
    return INODE.pack(*what, node.uid, node.gid, seconds, nanoseconds, node.names) + data + node.chunks


def _groups(names: list[bytes]) -> Iterator[list[bytes]]:
    """The sorted names of a directory, block by block."""
    group: list[bytes] = []
    room = BLOCK
    for name in names:
        room -= DIRENT.size + len(name)
        if room < 0:
            yield group
            group, room = [], BLOCK - DIRENT.size - len(name)
        group.append(name)
    yield group


def _names(node: Node) -> list[bytes]:
    return sorted((b".", b"..", *(node.entries or ())))


def _directory_size(node: Node) -> int:
    *full, last = _groups(_names(node))
    return len(full) * BLOCK + sum(DIRENT.size + len(name) for name in last)


def _contents(node: Node, parent: Node) -> Iterator[bytes]:
    """The data of a directory or a symlink, block by block."""
    if node.entries is None:
        yield node.target
        return
    for group in _groups(_names(node)):
        at = DIRENT.size * len(group)
        entries: list[bytes] = []
        for name in group:
            child = node if name == b"." else parent if name == b".." else node.entries[name]
            entries.append(DIRENT.pack(child.nid, at, _KINDS[stat.S_IFMT(child.mode)]))
            at += len(name)
        yield b"".join(entries) + b"".join(group)


def _crc32c(data: bytes) -> int:
    table: list[int] = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value
