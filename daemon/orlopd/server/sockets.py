"""The unix sockets: taken only when free, and open to their group alone.

grpcio binds a socket over a live one without a word and gives it the mode that the umask says. So
each path is locked and tried first, and group and mode are set after the bind. In between, the
umask that the daemon runs under (022) leaves the socket to its owner alone.
"""

from __future__ import annotations

import grp
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from .locks import FolderLock, LockError

PATH_LIMIT = 107
GROUP = "orlop"


class SocketError(Exception):
    """A socket cannot be served on. The message is one line."""


def find_group(name: str | int) -> int | None:
    """The number of the group that is to own the sockets; None to leave it as it is.

    :param name: a name, a number, or "" for the group "orlop" where there is one
    :raises SocketError: there is no such group
    """
    if isinstance(name, int) or name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name or GROUP).gr_gid
    except KeyError:
        if not name:
            return None
        raise SocketError(f'key "socket_group": there is no group "{name}" on this machine') from None


def check_free(path: Path) -> None:
    """Make sure that nobody serves on ``path`` now, without making or removing anything.

    :raises SocketError: somebody does, or it is something that is no socket
    """
    try:
        FolderLock.check_free(_lock_of(path), f"the socket {path}")
    except LockError as error:
        raise SocketError(str(error)) from None
    _check_stale(path)


@dataclass(slots=True)
class SocketPath:
    """A path that is this daemon's to bind, until :meth:`release`."""

    path: Path
    mode: int
    group: int | None
    _lock: FolderLock

    @classmethod
    def claim(cls, path: Path, mode: int, group: int | None) -> SocketPath:
        """Make sure that ``path`` can be bound: lock it, refuse a live socket, remove a stale one.

        :raises SocketError: the path is too long, in use, or something that is no socket
        """
        if len(os.fsencode(path)) > PATH_LIMIT:
            raise SocketError(
                f"the path of the socket {path} is too long: it has {len(os.fsencode(path))} bytes,"
                f" a unix socket may have {PATH_LIMIT}; choose a shorter one with --address"
            )
        try:
            path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            lock = FolderLock.take(_lock_of(path), f"the socket {path}")
        except LockError as error:
            raise SocketError(str(error)) from None
        except OSError as error:
            raise SocketError(
                f"cannot make {path.parent}: {(error.strerror or str(error)).lower()}"
            ) from None
        try:
            _remove_stale(path)
        except BaseException:
            lock.release(remove=True)
            raise
        return cls(path, mode, group, lock)

    def open_up(self) -> None:
        """Give the bound socket its group and mode.

        :raises SocketError: this user may not give it to that group
        """
        try:
            if self.group is not None:
                os.chown(self.path, -1, self.group)
            self.path.chmod(self.mode)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise SocketError(f"cannot give the socket {self.path} to group {self.group}: {reason}") from None

    def release(self) -> None:
        """Remove the socket and let go of its path."""
        self.path.unlink(missing_ok=True)
        self._lock.release(remove=True)


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _remove_stale(path: Path) -> None:
    if _check_stale(path):
        path.unlink(missing_ok=True)


def _check_stale(path: Path) -> bool:
    """Whether a socket is there that nobody serves on. :raises SocketError: somebody does, or it is none"""
    try:
        found = path.lstat()
    except OSError:
        return False
    if not stat.S_ISSOCK(found.st_mode):
        raise SocketError(f"cannot serve on {path}: it exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return True
        except FileNotFoundError:
            return False
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise SocketError(f"cannot serve on {path}: {reason}") from None
    raise SocketError(f"the socket {path} is in use by another process")
