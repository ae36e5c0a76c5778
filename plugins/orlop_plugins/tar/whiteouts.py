"""Hiding what the layers below have (OCI image-spec, layer.md#whiteouts).

A whiteout is about the layers below, never about what its own layer has, wherever in the archive it stands.
"""

from __future__ import annotations

import errno
import os
import stat

from orlopd.plugin.errors import ResourceExhausted
from orlopd.plugin.files import Folder, walk

from .headers import malformed, show
from .tree import Tree, Whiteouts

# Paths are bytes, as archives have them.
# ruff: noqa: PTH120, PTH208

PREFIX = b".wh."
"""How the names of whiteouts begin."""
OPAQUE = b".wh..wh..opq"
AUFS = b".wh..wh."


class Hider:
    """Carries out the whiteouts of one archive.

    :param budget: how many files they may look at, all together
    """

    def __init__(self, tree: Tree, budget: int) -> None:
        self._tree = tree
        self._budget = budget
        self._hidden: set[bytes] = set()
        self._emptied: set[bytes] = set()
        # In a tree with the layers below in it: what this archive made. None where the tree began empty,
        # since there is nothing to hide then.
        mixed = tree.whiteouts is Whiteouts.DELETE and bool(os.listdir("/"))
        self._made: set[tuple[int, int]] | None = set() if mixed else None

    def made(self, path: bytes) -> None:
        """The archive has this."""
        if self._made is not None:
            self._made.add(_inode(os.lstat(path)))

    def takes(self, parent: bytes, base: bytes) -> bool:
        """Carry out the entry ``base`` in ``parent`` if it is a whiteout, and say whether it is."""
        if self._tree.whiteouts is Whiteouts.NONE or not base.startswith(PREFIX):
            return False
        if base == OPAQUE:
            self._opaque(parent)
        elif not base.startswith(AUFS):  # aufs's own records
            self._hide(parent, hidden_name(parent, base))
        return True

    def finish(self) -> None:
        """Leave overlay's marks, now that it is known what the archive has itself."""
        for path in sorted(self._emptied):
            if path != b"/" or self._tree.lowers.later:
                self._tree.parent(path)
                self._tree.mark_opaque(path)
        hidden = set(self._hidden)
        if b"/" in self._emptied:  # overlay does not look at the mark on its root
            hidden |= {b"/" + os.fsencode(name) for name in self._tree.lowers.below.top_names()}
        for path in sorted(hidden):  # directories ahead of what is in them
            self._mark(path)

    def _mark(self, path: bytes) -> None:
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            parent = os.path.dirname(path)
            lowers = self._tree.lowers
            # In a directory that shows nothing from below overlay would list the mark as a file.
            if not self._tree.is_opaque(parent) and (lowers.later or lowers.below.has(path.lstrip(b"/"))):
                self._tree.parent(parent)
                os.mknod(path, stat.S_IFCHR, 0)
                self._tree.marked = True
        except NotADirectoryError:
            pass
        else:
            if stat.S_ISDIR(info.st_mode):  # this layer's own: what is below it goes, it stays
                self._tree.mark_opaque(path)

    def _hide(self, parent: bytes, name: bytes) -> None:
        path = parent.rstrip(b"/") + b"/" + name
        if self._tree.whiteouts is Whiteouts.DELETE:
            self._delete(path)
        else:
            self._hidden.add(path)

    def _opaque(self, parent: bytes) -> None:
        if self._tree.whiteouts is Whiteouts.DELETE:
            self._empty(parent)
        else:
            self._emptied.add(parent)

    def _empty(self, path: bytes) -> None:
        if self._made is None:
            return
        try:
            info = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        if stat.S_ISDIR(info.st_mode):
            self._tree.keep_time(path, info)
            self._purge(path, self._made)

    def _delete(self, path: bytes) -> None:
        if self._made is None:
            return
        parent = os.path.dirname(path)
        try:
            self._tree.keep_time(parent, os.lstat(parent))
            info = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        made = _inode(info) in self._made
        if self._made and stat.S_ISDIR(info.st_mode):
            self._purge(path, self._made)
            if not made:
                _remove_if_empty(path)
        elif not made:
            self._tree.remove(path)

    def _purge(self, path: bytes, made: set[tuple[int, int]]) -> None:
        """Delete what is below ``path`` but what this archive made."""
        self._tree.forget_parents()
        found = list(walk(Folder.open(path)))
        self._budget -= len(found)
        if self._budget < 0:
            raise ResourceExhausted("the archive's whiteouts are too much work", reason="ARCHIVE_ENTRIES")
        for folder, name, info in reversed(found):
            if _inode(info) in made:
                continue
            if stat.S_ISDIR(info.st_mode):
                _remove_if_empty(name, folder.fd)
            else:
                os.unlink(name, dir_fd=folder.fd)


def hidden_name(parent: bytes, base: bytes) -> bytes:
    """The name that the whiteout ``base`` hides. :raises InvalidArgument: there can be none such"""
    name = base[len(PREFIX) :]
    if name in (b"", b".", b".."):
        raise malformed(f"whiteout {show(base)} in {show(parent)} names no file")
    return name


def _inode(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _remove_if_empty(path: bytes | str, dir_fd: int | None = None) -> None:
    try:
        os.rmdir(path, dir_fd=dir_fd)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
