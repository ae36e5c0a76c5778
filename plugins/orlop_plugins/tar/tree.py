"""The tree that an archive is written into: this process's root directory.

Names are absolute paths in bytes. Symlinks on the way to a name lead inside the root, since there is nothing
else; a name's last part is never followed.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from orlopd.plugin.errors import Internal
from orlopd.plugin.files import remove_tree
from orlopd.plugin.rebase import Below

from .headers import show

# Paths are bytes, as archives have them.
# ruff: noqa: PTH101, PTH102, PTH115, PTH116

T = TypeVar("T")

OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")
RESERVED_XATTRS = (*OVERLAY_XATTRS, "trusted.orlop.", "user.orlop.")
"""What never is of an archive, and never goes into one: how the names of such attributes begin."""
HOST_XATTRS = frozenset({"security.selinux", "security.ima", "security.evm", "security.SMACK64"})
"""What a machine's policy puts on files. It is not of the tree, and means nothing on another machine."""
_LINKS = 40
_REMEMBERED = 10_000


class Whiteouts(enum.Enum):
    """What names beginning with ``.wh.`` mean (OCI image-spec, layer.md#whiteouts)."""

    DELETE = "delete"
    """The layers below are in the same tree: remove what is named."""
    OVERLAY = "overlay"
    """The tree is an upper directory: leave overlay's marks."""
    NONE = "none"
    """Nothing."""


@dataclass(frozen=True, slots=True)
class Lowers:
    """The layers below an upper directory, opened before the process was confined, and overlay's marks.

    ``later`` says that they are not there yet: everything that is about them is left as marks, for
    :mod:`orlopd.plugin.rebase` to carry out.
    """

    below: Below = field(default_factory=lambda: Below([]))
    opaque: str = ""
    implied: str = ""
    plain: str = ""
    later: bool = False


class Tree:
    """What is known of the tree while an archive is written into it."""

    def __init__(self, whiteouts: Whiteouts, lowers: Lowers) -> None:
        self.whiteouts = whiteouts
        self.lowers = lowers
        self.owner: tuple[int, int] = (0, 0)
        """Whom directories belong to that no entry tells of."""
        self._parents: set[bytes] = set()
        self._times: dict[bytes, int] = {}
        self._opaque: set[bytes] = set()
        self._implied: set[bytes] = set()
        self.marked = False
        """Whether there is any mark below the root."""
        if lowers.later:
            with contextlib.suppress(OSError):
                os.removexattr(b"/", lowers.plain)  # of an earlier archive
                self.marked = True
            self.mark_implied(b"/")

    def set_time(self, path: bytes, mtime_ns: int) -> None:
        """Give a directory this time in the end: making what is in it would change it again."""
        self._times[path] = mtime_ns

    def keep_time(self, path: bytes, info: os.stat_result) -> None:
        """Give a directory the time it has now, unless the archive says otherwise."""
        self._times.setdefault(path, info.st_mtime_ns)

    def settle(self) -> None:
        """Give the directories their times, now that the archive is at its end."""
        if self.lowers.later and not self.marked:
            os.setxattr(b"/", self.lowers.plain, b"y")
        for path, mtime in self._times.items():
            try:
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    os.utime(path, ns=(mtime, mtime), follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    raise Internal(
                        f"cannot set the time of directory {show(path)}: {error.strerror}"
                    ) from error

    def replace(self, path: bytes, make: Callable[[], T]) -> T:
        """Make something new at ``path``; what is there goes first."""
        try:
            return make()
        except FileExistsError:
            self.remove(path)
            return make()

    def remove(self, path: bytes) -> None:
        """Remove what is at ``path``, with all that is in it."""
        self.forget_parents()  # names below it may come again as something else
        self._times.pop(path, None)
        if self._implied:
            self._implied = {
                each for each in self._implied if each != path and not each.startswith(path + b"/")
            }
        remove_tree(path)

    def forget_parents(self) -> None:
        """Directories that were there may be gone."""
        self._parents.clear()

    def directory(self, path: bytes) -> bool:
        """Have a directory of the archive's own at ``path``, the one that is there or a new one.

        :returns: whether it is a new one
        """
        new = True
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            new = False
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                self.remove(path)
                os.mkdir(path, 0o700)
                new = True
                # It takes the place of something: nothing from below may show through.
                self.mark_opaque(path)
        self.own(path)
        self._parents.add(path)
        return new

    def parent(self, path: bytes) -> None:
        """Have a directory at ``path``, making what is missing on the way.

        :raises OSError: something else is there
        """
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
            self.keep_time(path, info)
        if len(self._parents) > _REMEMBERED:
            self._parents.clear()
        self._parents.add(path)

    def mark_opaque(self, path: bytes) -> None:
        """Hide what the layers below have in the directory ``path``."""
        if self.whiteouts is Whiteouts.OVERLAY:
            self._opaque.add(path)
            self.marked |= path != b"/"
            os.setxattr(path, self.lowers.opaque, b"y", follow_symlinks=False)

    def mark_implied(self, path: bytes) -> None:
        """Have a directory take its attributes from the layers that will be below it."""
        self._implied.add(path)
        self.marked |= path != b"/"
        os.setxattr(path, self.lowers.implied, b"y", follow_symlinks=False)

    def own(self, path: bytes) -> None:
        """The archive has an entry for this directory."""
        if path in self._implied:
            self._implied.remove(path)
            os.removexattr(path, self.lowers.implied, follow_symlinks=False)

    def is_opaque(self, path: bytes) -> bool:
        """Whether nothing from below shows in ``path``, because it or a directory above it hides it."""
        while len(path) > 1:
            if path in self._opaque:
                return True
            path = path.rpartition(b"/")[0]
        return False

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
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                self.keep_time(here, info)
            done.append(part)

    def _make_parent(self, path: bytes) -> None:
        os.mkdir(path, 0o755)
        if self.owner != (0, 0):
            os.chown(path, *self.owner)
        if self.lowers.later:
            self.mark_implied(path)
            return
        below = self.lowers.below.directory(path.lstrip(b"/"))
        if below is None:
            return
        # The upper directory's attributes are the ones that show: they have to be those from below.
        info = os.fstat(below.fd)
        os.chown(path, info.st_uid, info.st_gid)
        os.chmod(path, stat.S_IMODE(info.st_mode))
        for name in os.listxattr(below.fd):
            if not name.startswith(RESERVED_XATTRS):
                with contextlib.suppress(OSError):
                    os.setxattr(path, name, os.getxattr(below.fd, name))
        self.keep_time(path, info)
