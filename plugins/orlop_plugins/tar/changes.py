"""What changed between two trees, as a layer.

The rules for what counts as changed are containerd's, so that a layer made here has what one made there has:
by owner, mode, time and attributes; a file by size as well, and by content where the time is in whole
seconds, which an unpacked archive's often is, or where an overlay copied the file up to change it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator
from dataclasses import dataclass

from orlopd.plugin.errors import FailedPrecondition
from orlopd.plugin.files import Folder, scan

from .headers import REG, SYMLINK, Entry, show
from .streams import CHUNK
from .tree import HOST_XATTRS, OVERLAY_XATTRS, RESERVED_XATTRS
from .whiteouts import PREFIX
from .writer import TarWriter, entry_of, hard_link, sparse_map

_NANO = 1_000_000_000
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(slots=True)
class _Place:
    """Something in a tree: ``path`` below the open ``folder``."""

    folder: Folder
    path: str
    info: os.stat_result

    def open(self) -> int:
        return os.open(self.path, _READ, dir_fd=self.folder.fd)

    def target(self) -> bytes:
        return os.fsencode(os.readlink(self.path, dir_fd=self.folder.fd))

    def xattrs(self) -> list[tuple[bytes, bytes]]:
        # These calls take no directory, and a path may be too long: go there.
        os.fchdir(self.folder.fd)
        path = self.path or "."
        names = sorted(
            name
            for name in os.listxattr(path, follow_symlinks=False)
            if not name.startswith(RESERVED_XATTRS) and name not in HOST_XATTRS
        )
        return [(os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)) for name in names]

    def marked(self, name: str) -> bool:
        os.fchdir(self.folder.fd)
        try:
            return os.getxattr(self.path or ".", name, follow_symlinks=False) == b"y"
        except OSError:
            return False

    def list(self) -> dict[str, _Place]:
        folder, path = self.folder.near(self.path)
        return {
            name: _Place(folder, f"{path}/{name}" if path else name, info)
            for name, info in scan(folder, path)
        }


@dataclass(slots=True)
class _Change:
    """``place`` is None for what is gone; ``named`` is its name in the layer."""

    named: bytes
    place: _Place | None
    changed: bool = True


class Changes:
    """The changes from one tree to another.

    :param lower: None for an empty one
    :param bare: ``upper`` is an overlay's upper directory, not what the overlay shows
    """

    def __init__(self, lower: Folder | None, upper: Folder, *, bare: bool) -> None:
        self._lower = lower
        self._upper = upper
        self._bare = bare

    def write(self, archive: TarWriter, report: Callable[[int], None]) -> None:
        """Write the layer."""
        # A file with several names is written under all of them if it is under one, or the link would break.
        relinked: set[tuple[int, int]] = set()
        for change in self._walk():
            if change.changed and change.place is not None and change.place.info.st_nlink > 1:
                relinked.add(_inode(change.place.info))
        written: dict[tuple[int, int], bytes] = {}
        parents: list[_Change] = []
        for change in self._walk():
            while parents and not change.named.startswith(parents[-1].named + b"/"):
                parents.pop()
            place = change.place
            is_dir = place is not None and stat.S_ISDIR(place.info.st_mode)
            wanted = change.changed or (
                place is not None
                and not is_dir
                and _inode(place.info) in relinked
                and place.info.st_nlink > 1
            )
            if wanted:
                for parent in parents:
                    if not parent.changed and parent.place is not None:
                        parent.changed = True
                        _write(archive, parent.named, parent.place, written)
                if place is None:
                    folder, _, name = change.named.rpartition(b"/")
                    gone = folder + b"/" + PREFIX + name if folder else PREFIX + name
                    archive.header(Entry(gone, REG))
                else:
                    _check_name(change.named)
                    _write(archive, change.named, place, written)
                report(archive.count)
            if is_dir:
                parents.append(change)

    def _walk(self) -> Generator[_Change]:
        """Each name in either tree that may matter, directories ahead of what is in them, sorted."""
        top = _Place(self._upper, "", os.fstat(self._upper.fd))
        base = None if self._lower is None else _Place(self._lower, "", os.fstat(self._lower.fd))
        alone = not self._bare
        stack = [(self._directory(b"", base, top, alone=alone), alone)]
        while stack:
            steps, alone = stack[-1]
            step = next(steps, None)
            if step is None:
                stack.pop()
                continue
            change, below = step
            yield change
            place = change.place
            if place is not None and stat.S_ISDIR(place.info.st_mode):
                alone = alone or any(place.marked(mark + "opaque") for mark in OVERLAY_XATTRS)
                stack.append((self._directory(change.named + b"/", below, place, alone=alone), alone))

    def _directory(
        self, prefix: bytes, lower: _Place | None, upper: _Place, *, alone: bool
    ) -> Generator[tuple[_Change, _Place | None]]:
        """:param alone: nothing of ``lower`` shows here: what ``upper`` does not have is gone"""
        old = lower.list() if lower is not None else {}
        new = upper.list()
        for name in sorted({*old, *new}, key=os.fsencode):
            named = prefix + os.fsencode(name)
            before, after = old.get(name), new.get(name)
            if after is not None and self._bare and _is_whiteout(after.info):
                after = None
                if before is None:
                    continue
            elif after is None and not alone:
                continue
            if after is None:
                yield _Change(named, None), None
                continue
            if stat.S_ISSOCK(after.info.st_mode):
                continue  # an archive has no word for it
            if before is not None and stat.S_IFMT(before.info.st_mode) != stat.S_IFMT(after.info.st_mode):
                before = None
            yield _Change(named, after, before is None or _differs(before, after, read=self._bare)), before


def _check_name(name: bytes) -> None:
    if name.rpartition(b"/")[2].startswith(PREFIX):
        raise FailedPrecondition(
            f"{show(name)} cannot go into a layer: names that begin with .wh. hide others there",
            reason="RESERVED_NAME",
            hint="rename or remove it (OCI image-spec, layer.md#whiteouts)",
        )


def _inode(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _differs(old: _Place, new: _Place, *, read: bool) -> bool:
    a, b = old.info, new.info
    if (a.st_mode, a.st_uid, a.st_gid, a.st_rdev) != (b.st_mode, b.st_uid, b.st_gid, b.st_rdev):
        return True
    if a.st_mtime_ns != b.st_mtime_ns:
        return True
    if not stat.S_ISDIR(a.st_mode):
        if a.st_size != b.st_size:
            return True
        if read or a.st_mtime_ns % _NANO == 0:
            if stat.S_ISLNK(a.st_mode) and old.target() != new.target():
                return True
            if stat.S_ISREG(a.st_mode) and not _same_content(old, new):
                return True
    return old.xattrs() != new.xattrs()


def _same_content(old: _Place, new: _Place) -> bool:
    a = old.open()
    try:
        b = new.open()
        try:
            while True:
                data = os.read(a, CHUNK)
                if data != os.read(b, CHUNK):
                    return False
                if not data:
                    return True
        finally:
            os.close(b)
    finally:
        os.close(a)


def _write(archive: TarWriter, name: bytes, place: _Place, written: dict[tuple[int, int], bytes]) -> None:
    info = place.info
    entry = entry_of(name, info)
    if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
        first = written.setdefault(_inode(info), name)
        if first != name:
            archive.header(hard_link(entry, first))
            return
    entry.xattrs = place.xattrs()
    if entry.type == SYMLINK:
        entry.link = place.target()
    if entry.type != REG:
        archive.header(entry)
        return
    fd = place.open()
    try:
        opened = os.fstat(fd)
        if not os.path.samestat(opened, info) or not stat.S_ISREG(opened.st_mode):
            raise FailedPrecondition(
                f"{os.fsdecode(name)!r} changed while it was read", hint="stop the container"
            )
        _content(archive, entry, fd, opened)
    finally:
        os.close(fd)


def _content(archive: TarWriter, entry: Entry, fd: int, info: os.stat_result) -> None:
    entry.size = entry.real_size = info.st_size
    pieces = [(0, info.st_size)]
    if info.st_blocks * 512 < info.st_size:
        found = _data(fd, info.st_size)
        if found != pieces:
            entry.pieces = pieces = found
            entry.size = sum(size for _, size in pieces)
    archive.header(entry)
    stored = entry.size
    if entry.pieces is not None:
        table = sparse_map(entry.pieces)
        archive.write(table)
    for offset, size in pieces:
        end = offset + size
        while offset < end:
            data = os.pread(fd, min(CHUNK, end - offset), offset)
            if not data:  # cut short meanwhile, but its size is written already
                data = bytes(min(CHUNK, end - offset))
            archive.write(data)
            offset += len(data)
    archive.pad(stored)


def _data(fd: int, size: int) -> list[tuple[int, int]]:
    """Where a file has data."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
            at = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
        except OSError:  # ENXIO: a hole to the end
            break
        if begin < at:
            found.append((begin, at - begin))
    if not found or sum(found[-1]) < size:
        found.append((size, 0))  # as GNU tar marks a hole at the end
    return found
