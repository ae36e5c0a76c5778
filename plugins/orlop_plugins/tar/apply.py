"""Writing an archive's entries into the root directory of this process.

The process is confined to that directory already (:mod:`.confine`): the root is the layer, so no name leads
out of it, whatever symlinks the archive made before. What is guarded here is the inside: an entry replaces
what is there and never writes through it, and nothing of an entry is applied to a symlink's target.
"""

# Paths are bytes, as archives have them.
# ruff: noqa: PTH101, PTH102, PTH106, PTH115, PTH120, PTH116, PTH208, PTH211

from __future__ import annotations

import contextlib
import enum
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from orlopd.plugin.errors import (
    Internal,
    InvalidArgument,
    OrlopError,
    PermissionDenied,
    ResourceExhausted,
)
from orlopd.plugin.files import (
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    Folder,
    openat2,
    remove_tree,
    scan,
    walk,
)

from .headers import CHAR, DIRECTORY, FIFO, LINK, REG, SYMLINK, Entry, TarReader, malformed, show
from .streams import write_all

T = TypeVar("T")

_PREFIX = b".wh."
_OPAQUE = b".wh..wh..opq"
_META = b".wh..wh."
_LINKS = 40
_NO_ID = (1 << 32) - 1
_MAX_MAJOR, _MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1
_MAX_TIME = (1 << 63) - 1
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ARCHIVE_FAULTS = {
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ENOENT, errno.EEXIST),
    *(errno.EMLINK, errno.ERANGE, errno.E2BIG, errno.ENOTEMPTY, errno.EFBIG),
}


class Whiteouts(enum.Enum):
    """What names beginning with ``.wh.`` mean (OCI image-spec, layer.md#whiteouts)."""

    DELETE = "delete"
    """The layers below are in the same tree: remove what is named."""
    OVERLAY = "overlay"
    """The tree is an upper directory: leave overlay's marks."""
    NONE = "none"
    """Nothing."""


@dataclass(slots=True)
class Lowers:
    """The layers below an upper directory, topmost first, opened before the process was confined."""

    folders: list[Folder] = field(default_factory=list[Folder])
    opaque: str = "trusted.overlay.opaque"

    def directory(self, path: bytes) -> int | None:
        """Open what the layers below show at ``path``, if that is a directory."""
        for folder in self.folders:
            try:
                return openat2(folder.fd, path, _FOLDER, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    return None
        return None

    def top_names(self) -> set[bytes]:
        """Every name in the top directories below."""
        return {os.fsencode(name) for folder in self.folders for name, _ in scan(folder)}


class Applier:
    """Applies one archive to ``/``.

    :param whiteouts: what ``.wh.`` names mean
    :param lowers: for whiteouts of overlay, the layers below
    :param privileged: root of the machine, who may make device nodes
    :param budget: how many files whiteouts may look at, all together
    """

    def __init__(self, whiteouts: Whiteouts, lowers: Lowers, *, privileged: bool, budget: int) -> None:
        self._whiteouts = whiteouts
        self._lowers = lowers
        self._privileged = privileged
        self._budget = budget
        self._parents: set[bytes] = set()
        self._times: dict[bytes, int] = {}
        self._root_opaque = False
        # In a tree with the layers below in it: what this archive made, which its whiteouts must not hit.
        # None where the tree began empty: whiteouts hit nothing then.
        mixed = whiteouts is Whiteouts.DELETE and bool(os.listdir("/"))
        self._made: set[tuple[int, int]] | None = set() if mixed else None
        self.written = 0

    def run(self, reader: TarReader) -> None:
        """Apply every entry.

        :raises InvalidArgument: an entry cannot be what it says, or tries to leave the root
        :raises ResourceExhausted: the disk is full
        """
        for entry in reader:
            try:
                self._entry(entry, reader)
            except OSError as error:
                raise _explain(entry, error) from error
        # Last, because making what is in a directory changes its time.
        for path, mtime in self._times.items():
            try:
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    os.utime(path, ns=(mtime, mtime), follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    raise Internal(
                        f"cannot set the time of directory {show(path)}: {error.strerror}"
                    ) from error

    def _entry(self, entry: Entry, reader: TarReader) -> None:
        parts = _parts(entry.name, entry)
        if not parts:
            if entry.type != DIRECTORY:
                raise malformed(f"entry {show(entry.name)} would replace the root directory")
            self._attributes(b"/", entry)
            return
        base = parts[-1]
        parent = b"/" + b"/".join(parts[:-1])
        path = b"/" + b"/".join(parts)
        if self._whiteouts is not Whiteouts.NONE and base.startswith(_PREFIX):
            if base == _OPAQUE:
                self._opaque(parent)
            elif not base.startswith(_META):  # aufs's own records
                self._whiteout(parent, base[len(_PREFIX) :], entry)
            return
        self._parent(parent)
        if entry.type == REG:
            self._file(path, entry, reader)
        elif entry.type == DIRECTORY:
            self._directory(path, entry)
        elif entry.type == LINK:
            self._link(path, entry)
        elif entry.type == SYMLINK:
            self._replacing(path, lambda: os.symlink(entry.link, path))
            self._attributes(path, entry)
        elif entry.type == FIFO:
            self._replacing(path, lambda: os.mkfifo(path, 0o600))
            self._attributes(path, entry)
        elif not self._privileged:
            return  # a user namespace's root makes no devices, and every runtime mounts its own /dev
        else:
            self._device(path, entry)
        self._note(path)

    # Kinds of entries.

    def _directory(self, path: bytes, entry: Entry) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            info = os.lstat(path)
            if not stat.S_ISDIR(info.st_mode):
                self._remove(path)
                os.mkdir(path, 0o700)
                if self._whiteouts is Whiteouts.OVERLAY:
                    # It takes the place of something: nothing from below may show through.
                    self._mark_opaque(path)
        self._parents.add(path)
        self._attributes(path, entry)

    def _file(self, path: bytes, entry: Entry, reader: TarReader) -> None:
        fd = self._replacing(path, lambda: os.open(path, _CREATE, 0o600))
        try:
            if entry.pieces is None:
                for piece in reader.data():
                    write_all(fd, piece)
            else:
                os.ftruncate(fd, entry.real_size)
                for offset, size in entry.pieces:
                    end = offset + size
                    while offset < end and (piece := reader.take(end - offset)) is not None:
                        write_all(fd, piece, offset)
                        offset += len(piece)
            self.written += entry.size
            self._attributes(fd, entry)
        finally:
            os.close(fd)

    def _link(self, path: bytes, entry: Entry) -> None:
        target = b"/" + b"/".join(_parts(entry.link, entry))
        try:
            there = os.lstat(target)
        except FileNotFoundError as error:
            raise malformed(
                f"hard link {show(entry.name)} to {show(entry.link)}, which is not there"
            ) from error
        if stat.S_ISDIR(there.st_mode):
            raise malformed(f"hard link {show(entry.name)} to the directory {show(entry.link)}")
        try:
            if os.path.samestat(there, os.lstat(path)):
                return
        except FileNotFoundError:
            pass
        # Owner, mode and times are those of the file it names; a link's header changes nothing of it.
        self._replacing(path, lambda: os.link(target, path, follow_symlinks=False))

    def _device(self, path: bytes, entry: Entry) -> None:
        if not (0 <= entry.major <= _MAX_MAJOR and 0 <= entry.minor <= _MAX_MINOR):
            raise malformed(f"device {show(entry.name)} has the number {entry.major}:{entry.minor}")
        kind = stat.S_IFCHR if entry.type == CHAR else stat.S_IFBLK
        number = os.makedev(entry.major, entry.minor)
        self._replacing(path, lambda: os.mknod(path, kind | 0o600, number))
        self._attributes(path, entry)

    def _replacing(self, path: bytes, make: Callable[[], T]) -> T:
        """Make something new at ``path``, which is never followed; what is there goes first."""
        try:
            return make()
        except FileExistsError:
            self._remove(path)
            return make()

    def _remove(self, path: bytes) -> None:
        self._parents.clear()  # names below it may come again as something else
        self._times.pop(path, None)
        remove_tree(path)

    def _attributes(self, target: bytes | int, entry: Entry) -> None:
        if not (0 <= entry.uid < _NO_ID and 0 <= entry.gid < _NO_ID):
            raise malformed(f"entry {show(entry.name)} belongs to {entry.uid}:{entry.gid}")
        # Owner first: chown clears set-id bits and capabilities.
        if isinstance(target, int):
            os.chown(target, entry.uid, entry.gid)
        else:
            os.chown(target, entry.uid, entry.gid, follow_symlinks=False)
        for name, value in entry.xattrs:
            self._xattr(target, name, value, entry)
        if entry.type != SYMLINK:
            os.chmod(target, entry.mode & 0o7777)
        # A time that nanoseconds in 64 bits cannot hold is the epoch, as other container managers have it.
        mtime = entry.mtime_ns if abs(entry.mtime_ns) <= _MAX_TIME else 0
        if entry.type == DIRECTORY and isinstance(target, bytes):
            self._times[target] = mtime
        elif isinstance(target, int):
            os.utime(target, ns=(mtime, mtime))
        else:
            os.utime(target, ns=(mtime, mtime), follow_symlinks=False)

    def _xattr(self, target: bytes | int, name: bytes, value: bytes, entry: Entry) -> None:
        if name.startswith((b"trusted.overlay.", b"user.overlay.")):
            return  # overlay's own bookkeeping; from an archive it could redirect directories
        try:
            if isinstance(target, int):
                os.setxattr(target, name, value)
            else:
                os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            # No place for them on this filesystem, or of this kind on this kind of file.
            if error.errno == errno.ENOTSUP or (error.errno == errno.EPERM and entry.type != REG):
                return
            if error.errno == errno.EPERM and not self._privileged:
                return
            raise

    # Parents.

    def _parent(self, path: bytes) -> None:
        """Have ``path`` be a directory, making what is missing; symlinks lead inside the root."""
        if path in self._parents or path == b"/":
            return
        try:
            info = os.stat(path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            self._make_parents(path)
        else:
            if not stat.S_ISDIR(info.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            # A directory that the archive does not name keeps its time.
            self._times.setdefault(path, info.st_mtime_ns)
        if len(self._parents) > 10_000:
            self._parents.clear()
        self._parents.add(path)

    def _make_parents(self, path: bytes) -> None:
        todo = path.strip(b"/").split(b"/")[::-1]
        done: list[bytes] = []
        followed = 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                done[-1:] = []
                continue
            here = b"/" + b"/".join([*done, part])
            try:
                info = os.lstat(here)
            except FileNotFoundError:
                self._make_parent(here)
            else:
                if stat.S_ISLNK(info.st_mode):
                    followed += 1
                    if followed > _LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    to = os.readlink(here)
                    if to.startswith(b"/"):
                        done = []
                    todo += to.split(b"/")[::-1]
                    continue
                if not stat.S_ISDIR(info.st_mode):
                    if not self._is_whiteout(info):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                    self._remove(here)
                    os.mkdir(here, 0o755)
                    self._mark_opaque(here)
            done.append(part)

    def _make_parent(self, path: bytes) -> None:
        os.mkdir(path, 0o755)
        below = self._lowers.directory(path.lstrip(b"/"))
        if below is None:
            os.chmod(path, 0o755)
            return
        # The upper directory's attributes are the ones that show: they have to be those from below.
        try:
            info = os.fstat(below)
            os.chown(path, info.st_uid, info.st_gid)
            os.chmod(path, stat.S_IMODE(info.st_mode))
            for name in os.listxattr(below):
                if not name.startswith(("trusted.overlay.", "user.overlay.")):
                    with contextlib.suppress(OSError):
                        os.setxattr(path, name, os.getxattr(below, name))
            self._times.setdefault(path, info.st_mtime_ns)
        finally:
            os.close(below)

    # Whiteouts.

    def _is_whiteout(self, info: os.stat_result) -> bool:
        return self._whiteouts is Whiteouts.OVERLAY and stat.S_ISCHR(info.st_mode) and info.st_rdev == 0

    def _whiteout(self, parent: bytes, name: bytes, entry: Entry) -> None:
        if name in (b"", b".", b".."):
            raise malformed(f"whiteout {show(entry.name)} names no file")
        path = parent.rstrip(b"/") + b"/" + name
        if self._whiteouts is Whiteouts.DELETE:
            self._delete(path)
            return
        self._parent(parent)
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            os.mknod(path, stat.S_IFCHR, 0)
            return
        if stat.S_ISDIR(info.st_mode):  # this layer's own: what is below it goes, it stays
            self._mark_opaque(path)

    def _opaque(self, parent: bytes) -> None:
        if self._whiteouts is Whiteouts.DELETE:
            if self._made is None:
                return
            try:
                info = os.lstat(parent)
            except (FileNotFoundError, NotADirectoryError):
                return
            if stat.S_ISDIR(info.st_mode):
                self._times.setdefault(parent, info.st_mtime_ns)
                self._purge(parent)
            return
        self._parent(parent)
        if parent != b"/":
            self._mark_opaque(parent)
            return
        # Overlay does not look at the mark on its root.
        if self._root_opaque:
            return
        self._root_opaque = True
        for name in self._lowers.top_names():
            try:
                os.mknod(b"/" + name, stat.S_IFCHR, 0)
            except FileExistsError:
                if stat.S_ISDIR(os.lstat(b"/" + name).st_mode):
                    self._mark_opaque(b"/" + name)

    def _mark_opaque(self, path: bytes) -> None:
        if self._whiteouts is Whiteouts.OVERLAY:
            os.setxattr(path, self._lowers.opaque, b"y", follow_symlinks=False)

    def _note(self, path: bytes) -> None:
        if self._made is not None:
            info = os.lstat(path)
            self._made.add((info.st_dev, info.st_ino))

    def _delete(self, path: bytes) -> None:
        if self._made is None:
            return
        try:
            parent = os.path.dirname(path)
            self._times.setdefault(parent, os.lstat(parent).st_mtime_ns)
            info = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        made = (info.st_dev, info.st_ino) in self._made
        if self._made and stat.S_ISDIR(info.st_mode):
            self._purge(path)
            if made:
                return
            try:
                os.rmdir(path)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
            return
        if not made:
            self._remove(path)

    def _purge(self, path: bytes) -> None:
        """Delete what is below ``path`` but what this archive made."""
        self._parents.clear()
        made = self._made or set()
        found = list(walk(Folder.open(path)))
        self._budget -= len(found)
        if self._budget < 0:
            raise ResourceExhausted("the archive's whiteouts are too much work", reason="ARCHIVE_ENTRIES")
        for folder, name, info in reversed(found):
            if (info.st_dev, info.st_ino) in made:
                continue
            if not stat.S_ISDIR(info.st_mode):
                os.unlink(name, dir_fd=folder.fd)
                continue
            try:
                os.rmdir(name, dir_fd=folder.fd)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise


def _parts(name: bytes, entry: Entry) -> list[bytes]:
    """The parts of a name. A leading slash means the root of the layer; some builders write it."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidArgument(
            f"archive entry {show(entry.name)} leaves its root by '..'"
            if name is entry.name
            else f"archive entry {show(entry.name)} links to {show(name)}, out of its root",
            reason="ARCHIVE_ESCAPE",
        )
    return parts


def _explain(entry: Entry, error: OSError) -> OrlopError:
    what = f"cannot write archive entry {show(entry.name)}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(what, reason="DISK_FULL", hint="free some space: orlop system prune")
    if error.errno in _ARCHIVE_FAULTS:
        return InvalidArgument(what, reason="MALFORMED_ARCHIVE")
    if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        return PermissionDenied(what)
    return Internal(what)
