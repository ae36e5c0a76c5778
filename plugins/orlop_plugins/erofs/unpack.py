"""From an archive to an image: data goes out as it comes, the tree is kept in memory until the end.

What entries mean is what :mod:`orlop_plugins.tar.apply` does with a directory, for a layer that does not know
those below it yet; :mod:`.settle` does the rest. A name leads nowhere but to what the archive made before.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop_plugins.tar.apply import MAX_TIME, check_device, check_owner, explain_entry, name_parts
from orlop_plugins.tar.headers import (
    CHAR,
    DEVICE,
    DIRECTORY,
    FIFO,
    LINK,
    REG,
    SYMLINK,
    Entry,
    TarReader,
    malformed,
    show,
)
from orlop_plugins.tar.limits import Limits
from orlop_plugins.tar.tree import RESERVED_XATTRS
from orlop_plugins.tar.whiteouts import AUFS, OPAQUE, PREFIX, hidden_name
from orlopd.plugin.errors import ResourceExhausted

from . import acl, xattrs
from .blocks import BLOCK, Blocks
from .metadata import write
from .nodes import Marks, Node, whiteout
from .settle import is_plain
from .sparse import SparseFile, map_size

_NO_BASE = frozenset((b"", b".", b".."))
_SHORT = 256
_LINKS = 40
_REMEMBERED = 10_000
_MAX_PATH, _MAX_NAME = 4095, 255
_MAX_BLOCKS = 1 << 32
_MAX_HELD = 256 << 20
_RESERVED = tuple(map(os.fsencode, RESERVED_XATTRS))
_KINDS = {FIFO: stat.S_IFIFO, CHAR: stat.S_IFCHR, DEVICE: stat.S_IFBLK, SYMLINK: stat.S_IFLNK}


class Unpacker:
    """Makes the image of one archive.

    :param fd: the image, empty and open for writing
    """

    def __init__(self, fd: int, limits: Limits, marks: Marks) -> None:
        self._fd = fd
        self._limits = limits
        self._marks = marks
        self._out = Blocks(fd, BLOCK)
        self._root = Node.directory()
        self._root.set(marks.implied)
        self._heads: dict[bytes, bytes] = {}  # what stands before a name's last slash, and what it means
        self._parents: dict[bytes, Node] = {}
        self._hidden: set[bytes] = set()
        self._emptied: set[bytes] = set()
        self._implied = 0
        self._held = 0
        self.written = 0

    def run(self, reader: TarReader) -> None:
        """Take every entry, and write the image.

        :raises InvalidArgument: an entry cannot be what it says, or tries to leave the root
        :raises ResourceExhausted: a limit was met, or the disk is full
        """
        for entry in reader:
            try:
                self._entry(entry, reader)
            except OSError as error:
                raise explain_entry(f"cannot write archive entry {show(entry.name)}", error) from error
        try:
            self._finish()
            self._root.set(self._marks.plain, b"y" if is_plain(self._root, self._marks) else b"n")
            write(self._out, self._fd, self._root)
        except OSError as error:
            raise explain_entry("cannot write the archive's directories", error) from error

    def _entry(self, entry: Entry, reader: TarReader) -> None:
        head, _, base = entry.name.rpartition(b"/")
        where = self._heads.get(head) if base not in _NO_BASE else None
        if where is None:
            parts = name_parts(entry.name, entry)
            if not parts:
                if entry.type != DIRECTORY:
                    raise malformed(f"entry {show(entry.name)} would replace the root directory")
                self._own(self._root, entry)
                return
            named, base = base, parts.pop()
            where = b"/".join(parts)
            if named == base and len(head) <= _SHORT:
                if len(self._heads) >= _REMEMBERED:
                    self._heads.clear()
                self._heads[head] = where
        if base.startswith(PREFIX):
            self._whiteout(where, base)
            return
        if len(base) > _MAX_NAME or len(where) + len(base) >= _MAX_PATH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        self._hold(len(base))
        folder = self._parents.get(where)
        if folder is None:
            folder = self._parent(where)
        entries = folder.entries
        assert entries is not None
        if entry.type == REG:
            self._remove(entries, base)
            entries[base] = self._file(entry, reader)
        elif entry.type == DIRECTORY:
            self._directory(entries, base, entry)
        elif entry.type == LINK:
            self._link(entries, base, entry)
        else:
            self._remove(entries, base)
            entries[base] = self._special(entry)

    def _file(self, entry: Entry, reader: TarReader) -> Node:
        out = self._out
        node = Node(stat.S_IFREG, size=entry.real_size, where=out.block)
        if entry.pieces is None:
            for piece in reader.data():
                out.add(piece)
        else:
            self._hold(map_size(entry.real_size))
            sparse = SparseFile(out, entry.real_size)
            for offset, size in entry.pieces:
                end = offset + size
                while offset < end and (piece := reader.take(end - offset)) is not None:
                    sparse.add(offset, piece)
                    offset += len(piece)
            node.chunks = sparse.end()
        out.pad()
        if out.block >= _MAX_BLOCKS:
            raise ResourceExhausted(
                "the archive's files have more bytes than fit into an image", reason="ARCHIVE_TOO_LARGE"
            )
        self.written += entry.size
        self._attributes(node, entry)
        return node

    def _directory(self, entries: dict[bytes, Node], base: bytes, entry: Entry) -> None:
        node = entries.get(base)
        if node is None or node.entries is None:
            self._remove(entries, base)
            entries[base] = fresh = Node.directory()
            if node is not None:  # it takes the place of something: nothing from below may show through
                fresh.set(self._marks.opaque)
            node = fresh
        self._own(node, entry)

    def _own(self, node: Node, entry: Entry) -> None:
        node.take(self._marks.implied)
        self._attributes(node, entry)

    def _link(self, entries: dict[bytes, Node], base: bytes, entry: Entry) -> None:
        parts = name_parts(entry.link, entry)
        try:
            target = self._lookup(parts)
        except FileNotFoundError as error:
            raise malformed(
                f"hard link {show(entry.name)} to {show(entry.link)}, which is not there"
            ) from error
        if target.entries is not None:
            raise malformed(f"hard link {show(entry.name)} to the directory {show(entry.link)}")
        if entries.get(base) is not target:
            self._remove(entries, base)
            entries[base] = self._lookup(parts)  # it may just have gone

    def _special(self, entry: Entry) -> Node:
        node = Node(_KINDS[entry.type])
        if entry.type == SYMLINK:
            if not 0 < len(entry.link) <= _MAX_PATH:
                number = errno.ENAMETOOLONG if entry.link else errno.ENOENT
                raise OSError(number, os.strerror(number))
            self._hold(len(entry.link))
            node.target = entry.link
        elif entry.type != FIFO:
            check_device(entry)
            major, minor = entry.major, entry.minor
            node.where = (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
        self._attributes(node, entry)
        return node

    def _attributes(self, node: Node, entry: Entry) -> None:
        check_owner(entry)
        node.uid, node.gid = entry.uid, entry.gid
        # A time that nanoseconds in 64 bits cannot hold is the epoch, as other container managers have it.
        node.mtime_ns = entry.mtime_ns if abs(entry.mtime_ns) <= MAX_TIME else 0
        node.mode = stat.S_IFMT(node.mode) | entry.mode & 0o7777
        for name, value in entry.xattrs:
            self._xattr(node, name, value)
        if node.has(acl.ACCESS):
            node.set(acl.ACCESS, acl.with_mode((node.xattrs or {})[acl.ACCESS], node.mode))
            if not (node.xattrs or {})[acl.ACCESS]:
                node.take(acl.ACCESS)
        if entry.xattrs:
            self._hold(len(xattrs.encode(node.xattrs)))  # that they fit is found out here, too

    def _xattr(self, node: Node, name: bytes, value: bytes) -> None:
        if name.startswith(_RESERVED) or not xattrs.has_place(name):
            return
        if name.startswith(b"user.") and not (stat.S_ISREG(node.mode) or stat.S_ISDIR(node.mode)):
            return
        if name in (acl.ACCESS, acl.DEFAULT):
            if stat.S_ISLNK(node.mode):
                return
            acl.check(value)
            if name == acl.DEFAULT and node.entries is None:
                raise malformed("a default ACL is of something else than a directory")
        node.set(name, value)

    def _whiteout(self, where: bytes, base: bytes) -> None:
        if base == OPAQUE:
            self._emptied.add(where)
            self._hold(len(where))
        elif not base.startswith(AUFS):
            name = hidden_name(b"/" + where, base)
            path = where + b"/" + name if where else name
            self._hidden.add(path)
            self._hold(len(path))

    def _finish(self) -> None:
        """Leave overlay's marks, now that it is known what the archive has itself."""
        for path in sorted(self._emptied):
            parts = path.split(b"/") if path else []
            self._resolve(parts, make=True)
            node = self._lookup(parts)
            if node.entries is not None:
                node.set(self._marks.opaque)
        for path in sorted(self._hidden):  # directories ahead of what is in them
            parts = path.split(b"/")
            try:
                node = self._lookup(parts)
            except FileNotFoundError:
                if len(parts[-1]) > _MAX_NAME or len(path) >= _MAX_PATH:
                    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)) from None
                entries = self._resolve(parts[:-1], make=True).entries
                assert entries is not None
                entries[parts[-1]] = whiteout()
            except NotADirectoryError:
                continue
            else:
                if node.entries is not None:  # this layer's own: what is below it goes, it stays
                    node.set(self._marks.opaque)

    def _parent(self, where: bytes) -> Node:
        """The directory of this name, made with those on the way if need be."""
        folder = self._resolve(where.split(b"/"), make=True)
        if len(self._parents) >= _REMEMBERED:
            self._parents.clear()
        self._parents[where] = folder
        return folder

    def _lookup(self, parts: list[bytes]) -> Node:
        """What has this name; a symlink there is not followed. :raises FileNotFoundError: nothing has"""
        if not parts:
            return self._root
        entries = self._resolve(parts[:-1]).entries
        assert entries is not None
        node = entries.get(parts[-1])
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return node

    def _resolve(self, parts: list[bytes], *, make: bool = False) -> Node:
        """The directory of this name, through symlinks.

        :param make: whether to make what is not there, or else
        :raises FileNotFoundError: it is not there
        :raises OSError: something else is there
        """
        todo = parts[::-1]
        way = [self._root]
        followed = 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                del way[max(1, len(way) - 1) :]
                continue
            entries = way[-1].entries
            assert entries is not None
            node = entries.get(part)
            if node is None:
                if not make:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                node = entries[part] = self._make(part)
            if node.entries is not None:
                way.append(node)
            elif stat.S_ISLNK(node.mode):
                followed += 1
                if followed > _LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if node.target.startswith(b"/"):
                    del way[1:]
                todo += node.target.split(b"/")[::-1]
            else:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return way[-1]

    def _make(self, name: bytes) -> Node:
        if len(name) > _MAX_NAME:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        self._hold(len(name))
        self._implied += 1
        if self._implied > self._limits.entries:
            raise ResourceExhausted(
                f"the archive implies more than {self._limits.entries} directories",
                reason="ARCHIVE_ENTRIES",
                hint="raise max_entries of the differ in the config if you trust it",
            )
        node = Node.directory()
        node.set(self._marks.implied)
        return node

    def _remove(self, entries: dict[bytes, Node], name: bytes) -> None:
        node = entries.pop(name, None)
        if node is not None and (node.entries is not None or node.target):
            self._parents.clear()  # names below it may come again as something else

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > _MAX_HELD:
            raise ResourceExhausted(
                f"the archive's names, links and attributes have more than {_MAX_HELD} bytes",
                reason="ARCHIVE_HEADER",
            )
