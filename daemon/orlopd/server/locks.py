"""Locks that keep two daemons apart."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self


class LockError(Exception):
    """Somebody else holds the lock, or it cannot be taken. The message is one line."""


class FolderLock:
    """A lock on a file, held until :meth:`release` or the end of the process, however it ends.

    A record lock (fcntl(2)), because those are not inherited: a process that outlives the daemon,
    a shim for example, must not keep the next one out. For the same reason nothing else in this
    process may open and close the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    @classmethod
    def take(cls, path: Path, what: str) -> Self:
        """Lock the file ``path``, which is made if it is not there.

        :param what: what the lock is on, for the message
        :raises LockError: another process holds it, or the file cannot be made
        """
        lock = cls(path)
        try:
            while not lock._try(what):
                pass
        except OSError as error:
            raise LockError(f"cannot lock {path}: {(error.strerror or str(error)).lower()}") from None
        return lock

    @staticmethod
    def check_free(path: Path, what: str) -> None:
        """Make sure that nobody holds the lock now, without making anything.

        :raises LockError: another process holds it
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return  # Whoever takes the lock then will be told.
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise LockError(_taken(descriptor, what)) from None
        finally:
            os.close(descriptor)

    def _try(self, what: str) -> bool:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise LockError(_taken(descriptor, what)) from None
            # The holder before may have removed the file between our open and our lock.
            try:
                there = self._path.lstat()
            except FileNotFoundError:
                return False
            if there.st_ino != os.fstat(descriptor).st_ino:
                return False
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            self._descriptor = descriptor
            return True
        finally:
            if self._descriptor != descriptor:
                os.close(descriptor)

    def release(self, *, remove: bool = False) -> None:
        """Let go of the lock, and remove the file first if asked."""
        if self._descriptor >= 0:
            if remove:
                self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


def _taken(descriptor: int, what: str) -> str:
    holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    pid = f" (pid {holder})" if holder.isdigit() else ""
    return f"another orlopd{pid} is using {what}"
