"""Writing an archive's entries into the root directory of this process.

The process is confined to that directory already (:mod:`.confine`): the root is the layer, so no name leads
out of it, whatever symlinks the archive made before. What is guarded here is the inside: an entry replaces
what is there and never writes through it, and nothing of an entry is applied to a symlink's target.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from orlopd.plugin.errors import (
    Internal,
    InvalidArgument,
    OrlopError,
    PermissionDenied,
    ResourceExhausted,
)

from .headers import CHAR, DIRECTORY, FIFO, LINK, REG, SYMLINK, Entry, TarReader, malformed, show
from .owners import NAMED, Owners
from .streams import write_all
from .tree import HOST_XATTRS, RESERVED_XATTRS, Tree, Whiteouts
from .whiteouts import Hider

# Paths are bytes, as archives have them.
# ruff: noqa: PTH101, PTH211

_NO_ID = (1 << 32) - 1
_MAX_MAJOR, _MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1
MAX_TIME = (1 << 63) - 1
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CAPABILITY = b"security.capability"
_RESERVED_XATTRS = tuple(map(os.fsencode, RESERVED_XATTRS))
_HOST_XATTRS = frozenset(map(os.fsencode, HOST_XATTRS))
_ARCHIVE_FAULTS = {
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ENOENT, errno.EEXIST),
    *(errno.EMLINK, errno.ERANGE, errno.E2BIG, errno.ENOTEMPTY, errno.EFBIG),
}


class Applier:
    """Applies one archive to ``/``.

    :param privileged: root of the machine, who may make device nodes
    :param budget: how many files whiteouts may look at, all together
    :param owners: whom files belong to
    """

    def __init__(self, tree: Tree, *, privileged: bool, budget: int, owners: Owners = NAMED) -> None:
        self._tree = tree
        self._owners = owners
        self._hider = Hider(tree, budget)
        self._privileged = privileged
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
                raise explain_entry(f"cannot write archive entry {show(entry.name)}", error) from error
        try:
            self._hider.finish()
        except OSError as error:
            raise explain_entry("cannot write the archive's whiteouts", error) from error
        self._tree.settle()

    def _entry(self, entry: Entry, reader: TarReader) -> None:
        parts = name_parts(entry.name, entry)
        if not parts:
            if entry.type != DIRECTORY:
                raise malformed(f"entry {show(entry.name)} would replace the root directory")
            self._tree.own(b"/")
            self._bare(b"/", entry)
            self._attributes(b"/", entry)
            return
        parent = b"/" + b"/".join(parts[:-1])
        path = b"/" + b"/".join(parts)
        if self._hider.takes(parent, parts[-1]):
            return
        self._tree.parent(parent)
        if entry.type == REG:
            self._file(path, entry, reader)
        elif entry.type == DIRECTORY:
            if not self._tree.directory(path):
                self._bare(path, entry)
            self._attributes(path, entry)
        elif entry.type == LINK:
            self._link(path, entry)
        elif entry.type == SYMLINK:
            self._tree.replace(path, lambda: os.symlink(entry.link, path))
            self._attributes(path, entry)
        elif entry.type == FIFO:
            self._tree.replace(path, lambda: os.mkfifo(path, 0o600))
            self._attributes(path, entry)
        elif not self._privileged:
            return  # a user namespace's root makes no devices, and every runtime mounts its own /dev
        else:
            self._device(path, entry)
        self._hider.made(path)

    def _file(self, path: bytes, entry: Entry, reader: TarReader) -> None:
        fd = self._tree.replace(path, lambda: os.open(path, _CREATE, 0o600))
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
        target = b"/" + b"/".join(name_parts(entry.link, entry))
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
        self._tree.replace(path, lambda: os.link(target, path, follow_symlinks=False))

    def _device(self, path: bytes, entry: Entry) -> None:
        check_device(entry)
        kind = stat.S_IFCHR if entry.type == CHAR else stat.S_IFBLK
        number = os.makedev(entry.major, entry.minor)
        self._tree.replace(path, lambda: os.mknod(path, kind | 0o600, number))
        self._attributes(path, entry)

    def _attributes(self, target: bytes | int, entry: Entry) -> None:
        check_owner(entry)
        # Owner first: chown clears set-id bits and capabilities.
        uid, gid = self._owners.uid(entry.uid), self._owners.gid(entry.gid)
        if isinstance(target, int):
            os.chown(target, uid, gid)
        else:
            os.chown(target, uid, gid, follow_symlinks=False)
        for name, value in entry.xattrs:
            self._xattr(target, name, self._owners.capability(value) if name == _CAPABILITY else value, entry)
        if entry.type != SYMLINK:
            os.chmod(target, entry.mode & 0o7777)
        # A time that nanoseconds in 64 bits cannot hold is the epoch, as other container managers have it.
        mtime = entry.mtime_ns if abs(entry.mtime_ns) <= MAX_TIME else 0
        if isinstance(target, int):
            os.utime(target, ns=(mtime, mtime))
        elif entry.type == DIRECTORY:
            self._tree.set_time(target, mtime)
        else:
            os.utime(target, ns=(mtime, mtime), follow_symlinks=False)

    def _bare(self, path: bytes, entry: Entry) -> None:
        """Take from a directory that was there the attributes that the archive does not give it."""
        if self._tree.whiteouts is Whiteouts.NONE:
            return
        kept = {name for name, _ in entry.xattrs}
        for name in map(os.fsencode, os.listxattr(path, follow_symlinks=False)):
            if name not in kept and not name.startswith(_RESERVED_XATTRS) and name not in _HOST_XATTRS:
                with contextlib.suppress(OSError):  # not ours to take
                    os.removexattr(path, name, follow_symlinks=False)

    def _xattr(self, target: bytes | int, name: bytes, value: bytes, entry: Entry) -> None:
        if name.startswith(_RESERVED_XATTRS):
            return  # overlay's bookkeeping and ours; from an archive it could redirect directories
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


def check_device(entry: Entry) -> None:
    """:raises InvalidArgument: there can be no device of this number"""
    if not (0 <= entry.major <= _MAX_MAJOR and 0 <= entry.minor <= _MAX_MINOR):
        raise malformed(f"device {show(entry.name)} has the number {entry.major}:{entry.minor}")


def check_owner(entry: Entry) -> None:
    """:raises InvalidArgument: nothing can belong to these"""
    if not (0 <= entry.uid < _NO_ID and 0 <= entry.gid < _NO_ID):
        raise malformed(f"entry {show(entry.name)} belongs to {entry.uid}:{entry.gid}")


def name_parts(name: bytes, entry: Entry) -> list[bytes]:
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


def explain_entry(what: str, error: OSError) -> OrlopError:
    """The error for an archive's entry that could not be written."""
    what = f"{what}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(what, reason="DISK_FULL", hint="free some space: orlop system prune")
    if error.errno in _ARCHIVE_FAULTS:
        return InvalidArgument(what, reason="MALFORMED_ARCHIVE")
    if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        return PermissionDenied(what)
    return Internal(what)
