"""Putting a layer on others that were not there when it was unpacked.

A differ that unpacks into a bare upper directory (an overlay mount without ``lowerdir=``, see
:data:`orlopd.plugin.snapshots.REBASE_LABEL`) cannot know what lies below. It leaves every whiteout there is
as overlay's mark, the mark :func:`opaque` on each directory that hides what is below it, the root included,
and the mark :func:`implied` on each directory that the archive only implies. :func:`settle` makes of that
what it would have been with the lower layers at hand. A layer whose root has the mark :func:`plain` need not
be searched for others.
"""

# Descriptors, and paths below open folders.
# ruff: noqa: PTH101, PTH116

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from .files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, Folder, openat2, scan

_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_OVERLAY = ("trusted.overlay.", "user.overlay.")


def opaque(*, userxattr: bool = False) -> str:
    """The attribute by which overlay hides what is below a directory; its value is ``y``."""
    return ("user." if userxattr else "trusted.") + "overlay.opaque"


def implied(*, userxattr: bool = False) -> str:
    """The attribute that says of a directory: its owner, mode, time and attributes are those of the one
    below, if there is one. Its value is ``y``."""
    return ("user." if userxattr else "trusted.") + "orlop.implied"


def plain(*, userxattr: bool = False) -> str:
    """The attribute of a layer's root that says: there are no marks below it. Its value is ``y``."""
    return ("user." if userxattr else "trusted.") + "orlop.plain"


class Below:
    """What layers show together where a layer is to go on top of them.

    :param folders: their directories, topmost first
    """

    def __init__(self, folders: Sequence[Folder], *, userxattr: bool = False) -> None:
        self._folders = folders
        self._opaque = opaque(userxattr=userxattr)

    def has(self, path: str | bytes) -> bool:
        """Whether there is anything at ``path``. What a symlink of theirs leads to does not count."""
        found = self._find(os.fsencode(path))
        if found is not None:
            os.close(found)
        return found is not None

    def directory(self, path: str | bytes) -> Folder | None:
        """The topmost layer's directory at ``path``, if that is one."""
        found = self._find(os.fsencode(path)) if path else None
        try:
            if found is not None:
                return Folder(openat2(found, ".", _FOLDER))
            return Folder(os.dup(self._folders[0].fd)) if self._folders and not path else None
        except NotADirectoryError:
            return None
        finally:
            if found is not None:
                os.close(found)

    def top_names(self) -> set[str]:
        """Every name in their top directories, those that one of them hides included."""
        return {name for folder in self._folders for name, _ in scan(folder)}

    def _find(self, path: bytes) -> int | None:
        for folder in self._folders:
            try:
                found = openat2(folder.fd, path, os.O_PATH | os.O_NOFOLLOW, resolve=_RESOLVE)
            except FileNotFoundError:
                if self._closed(folder, path):
                    return None
                continue
            except OSError as error:
                # Something else is in the way, and hides what is further down.
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    return None
                raise
            if _is_whiteout(os.fstat(found)):
                os.close(found)
                return None
            return found
        return None

    def _closed(self, folder: Folder, path: bytes) -> bool:
        """Whether a directory on the way to ``path`` hides what is further down."""
        while b"/" in path:
            path = path.rpartition(b"/")[0]
            try:
                here = Folder(openat2(folder.fd, path, _FOLDER, resolve=_RESOLVE))
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    return True
                raise
            if _has(here.fd, self._opaque):
                return True
        return False


def settle(layer: Path, lowers: Sequence[Path], *, userxattr: bool = False) -> None:
    """Fit an unpacked layer to the directories below it, topmost first: drop marks that hide nothing (overlay
    would list them as files), carry out those on the root, which overlay does not look at, and give implied
    directories their attributes.

    :raises OSError: something could not be changed
    """
    _Settling(layer, lowers, userxattr).run()


class _Settling:
    def __init__(self, layer: Path, lowers: Sequence[Path], userxattr: bool) -> None:
        self._root = Folder.open(layer)
        self._below = Below([Folder.open(path) for path in lowers], userxattr=userxattr)
        self._opaque = opaque(userxattr=userxattr)
        self._implied = implied(userxattr=userxattr)
        self._plain = plain(userxattr=userxattr)
        self._times: list[tuple[Folder, str, int, bool]] = []

    def run(self) -> None:
        # A directory, below an open folder; its path from the top, which is what the lower layers know it
        # by; and whether a directory above it hides all that they have there.
        pending: list[tuple[Folder, str, str, bool]] = [(self._root, "", "", False)]
        searched = not _take(_at(self._root, ""), self._plain)
        hides_all = _take(_at(self._root, ""), self._opaque)
        while pending:
            folder, path, whole, closed = pending.pop()
            folder, path = folder.near(path)
            here = _at(folder, path)
            self._keep_time(folder, path, whole, closed)
            closed = closed or (_has(here, self._opaque) if whole else hides_all)
            for name, info in scan(folder, path) if searched else ():
                inner, outer = (f"{path}/{name}" if path else name), (f"{whole}/{name}" if whole else name)
                if stat.S_ISDIR(info.st_mode):
                    pending.append((folder, inner, outer, closed))
                elif _is_whiteout(info) and (closed or not self._below.has(outer)):
                    os.unlink(inner, dir_fd=folder.fd)
        # What was made and removed has changed the times of the directories it was in; those inside first.
        for folder, path, mtime, needless in reversed(self._times):
            if needless:
                try:
                    os.rmdir(path, dir_fd=folder.fd)
                    continue
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:
                        raise
            if hides_all and folder is self._root and not path:  # last, when it is known what the layer has
                self._hide_all()
            os.utime(_at(folder, path), ns=(mtime, mtime))

    def _keep_time(self, folder: Folder, path: str, whole: str, closed: bool) -> None:
        here = _at(folder, path)
        mtime, needless = os.stat(here).st_mtime_ns, False
        if _take(here, self._implied):
            below = self._below.directory(whole)
            if below is not None:
                mtime = _copy_attributes(below.fd, here)
            needless = bool(whole) and (closed or below is None)  # if it was there for whiteouts only
        self._times.append((folder, path, mtime, needless))

    def _hide_all(self) -> None:
        own = dict(scan(self._root))
        for name in sorted(self._below.top_names()):
            info = own.get(name)
            if info is None:
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=self._root.fd)
            elif stat.S_ISDIR(info.st_mode):
                os.setxattr(_at(self._root, name), self._opaque, b"y", follow_symlinks=False)


def _at(folder: Folder, path: str) -> str:
    return f"/proc/self/fd/{folder.fd}/{path}"


def _is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _has(path: str | int, name: str) -> bool:
    try:
        return bool(os.getxattr(path, name, follow_symlinks=isinstance(path, int)))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise


def _take(path: str, name: str) -> bool:
    """Remove an attribute, and say whether it was there."""
    if not _has(path, name):
        return False
    os.removexattr(path, name, follow_symlinks=False)
    return True


def _copy_attributes(source: int, target: str) -> int:
    info = os.stat(source)
    os.chown(target, info.st_uid, info.st_gid)
    os.chmod(target, stat.S_IMODE(info.st_mode))
    for name in os.listxattr(source):
        if not name.startswith(_OVERLAY):
            with contextlib.suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))
    return info.st_mtime_ns
