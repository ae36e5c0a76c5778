"""A root filesystem that somebody else filled, looked into without ever leaving it.

Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Generator
from pathlib import Path

from orlopd.plugin.errors import InvalidArgument, NotFound, ResourceExhausted
from orlopd.plugin.files import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

_INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_MOST_LINKS = 40


class Rootfs:
    """An open root filesystem. Paths are a container's: absolute, their symlinks resolved inside."""

    def __init__(self, fd: int) -> None:
        """:param fd: an open directory; the caller keeps and closes it"""
        self._fd = fd

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: str | Path) -> Generator[Rootfs, None, None]:
        """Open a directory as a root. :raises NotFound: it is none"""
        try:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(
                f"root filesystem {str(path)!r}: {error.strerror}", reason="ROOTFS_NOT_FOUND"
            ) from error
        try:
            yield cls(fd)
        finally:
            os.close(fd)

    def read(self, path: str, limit: int) -> bytes | None:
        """A regular file's content, or None where there is none (or something else).

        Devices and FIFOs are not even opened.

        :raises ResourceExhausted: it is longer than ``limit`` bytes
        """
        found = self._look(path)
        if found is None:
            return None
        try:
            if not stat.S_ISREG(os.fstat(found).st_mode):
                return None
            with open(f"/proc/self/fd/{found}", "rb", buffering=0) as file:  # noqa: PTH123
                data = bytearray()
                while len(data) <= limit and (piece := file.read(limit + 1 - len(data))):
                    data += piece
        finally:
            os.close(found)
        if len(data) > limit:
            raise ResourceExhausted(f"{path} in the root filesystem is longer than {limit} bytes")
        return bytes(data)

    def is_file(self, path: str) -> bool:
        """Whether ``path`` is a regular file in here."""
        found = self._look(path)
        if found is None:
            return False
        try:
            return stat.S_ISREG(os.fstat(found).st_mode)
        finally:
            os.close(found)

    def resolve(self, path: str) -> str:
        """``path`` with every symlink on its way taken, normal and absolute; parts may be missing.

        :raises InvalidArgument: too many symlinks
        """
        pending = _parts(path)
        done: list[str] = []
        links = 0
        while pending:
            part = pending.pop(0)
            if part == "..":
                del done[-1:]
                continue
            target = self._readlink("/".join([*done, part]))
            if target is None:
                done.append(part)
                continue
            links += 1
            if links > _MOST_LINKS or len(pending) > 4096:
                raise InvalidArgument(f"{path!r} leads through too many symlinks in the root filesystem")
            if target.startswith("/"):
                done = []
            pending = _parts(target) + pending
        return "/" + "/".join(done)

    def _look(self, path: str) -> int | None:
        try:
            return openat2(self._fd, path.lstrip("/") or ".", os.O_PATH, resolve=_INSIDE)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG):
                return None
            raise

    def _readlink(self, path: str) -> str | None:
        try:
            fd = openat2(self._fd, path, os.O_PATH | os.O_NOFOLLOW, resolve=_INSIDE)
        except OSError:
            return None
        try:
            return os.readlink("", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
        finally:
            os.close(fd)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def check_absolute(path: str) -> str:
    """A working directory that somebody asks for. An image's own may be relative: to the root, as elsewhere.

    :raises InvalidArgument: it is not absolute
    """
    if not path.startswith("/"):
        raise InvalidArgument(
            f"working directory {path[:200]!r} is not an absolute path", reason="RELATIVE_PATH"
        )
    return path


def check_directory(path: str, rootfs: Rootfs | None = None) -> str:
    """A working directory, normal and absolute; one that lies under a process's /proc is refused.

    With a descriptor of the host leaked into the runtime, /proc/self/fd/N leads out of the container
    (CVE-2024-21626), named directly or by a symlink in the image.

    :raises InvalidArgument: it is refused
    """
    if "\0" in path:
        raise InvalidArgument("a working directory cannot hold a NUL byte")
    normal = posixpath.normpath("/" + path.lstrip("/"))
    real = rootfs.resolve(normal) if rootfs else normal
    for candidate in (normal, real):
        if candidate.startswith("/proc/"):
            raise InvalidArgument(
                f"working directory {path!r} leads to {candidate!r}: /proc is refused",
                reason="WORKING_DIRECTORY_REFUSED",
            )
    return normal
