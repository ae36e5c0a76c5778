"""The tree of an image, in memory while it is made."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from orlopd.plugin.rebase import implied, opaque, plain


@dataclass(slots=True, eq=False)
class Node:
    """An inode.

    :param mode: with the type of the file
    :param where: of a regular file: the first block of its data; of a device: its number
    :param chunks: of a file with holes: where each chunk is, see :mod:`.sparse`
    :param names: how many names it has (directories: one)
    :param entries: of a directory: what is in it
    :param target: of a symbolic link
    """

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    where: int = 0
    names: int = 1
    xattrs: dict[bytes, bytes] | None = None
    entries: dict[bytes, Node] | None = None
    target: bytes = b""
    chunks: bytes = b""
    nid: int = -1

    @classmethod
    def directory(cls, mode: int = 0o755) -> Node:
        """An empty directory."""
        return cls(stat.S_IFDIR | mode, entries={})

    @property
    def is_whiteout(self) -> bool:
        """Whether it is overlay's mark that hides a name."""
        return stat.S_ISCHR(self.mode) and self.where == 0

    def has(self, name: bytes) -> bool:
        """Whether there is an extended attribute."""
        return self.xattrs is not None and name in self.xattrs

    def set(self, name: bytes, value: bytes = b"y") -> None:
        """Set an extended attribute."""
        if self.xattrs is None:
            self.xattrs = {}
        self.xattrs[name] = value

    def take(self, name: bytes) -> bool:
        """Remove an extended attribute, and say whether it was there."""
        if self.xattrs is None or self.xattrs.pop(name, None) is None:
            return False
        self.xattrs = self.xattrs or None
        return True


@dataclass(frozen=True, slots=True)
class Marks:
    """The attributes by which a layer speaks of those below it, see :mod:`orlopd.plugin.rebase`.

    ``plain`` is here on the root of every image that was not settled yet, with the value ``y`` or ``n``.
    """

    opaque: bytes
    implied: bytes
    plain: bytes

    @classmethod
    def of(cls, *, userxattr: bool) -> Marks:
        """Those of overlays with or without this option."""
        names = (make(userxattr=userxattr).encode() for make in (opaque, implied, plain))
        return cls(*names)


def whiteout() -> Node:
    """Overlay's mark that hides a name."""
    return Node(stat.S_IFCHR)


def directories(root: Node) -> Iterator[tuple[Node, Node]]:
    """Each directory with the one it is in, which comes first; the root is in itself."""
    pending = [(root, root)]
    while pending:
        node, parent = pending.pop()
        yield node, parent
        assert node.entries is not None
        below = [child for child in node.entries.values() if child.entries is not None]
        pending += [(child, node) for child in reversed(below)]
