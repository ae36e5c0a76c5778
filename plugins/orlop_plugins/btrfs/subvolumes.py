"""Subvolumes and their snapshots, by btrfs's own ioctls (linux/btrfs.h)."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_CREATE = 0x5000940E
_DESTROY = 0x5000940F
_SNAPSHOT = 0x50009417
_READ_ONLY = 1 << 1
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def _opened(path: Path) -> Generator[int]:
    fd = os.open(path, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


def create(path: Path) -> None:
    """Make an empty subvolume. :raises OSError: ENOTTY where this is not btrfs"""
    with _opened(path.parent) as parent:
        _call(parent, _CREATE, struct.pack("q4088s", 0, _name(path)))


def snapshot(source: Path, path: Path, *, readonly: bool = False) -> None:
    """Make a subvolume that begins as ``source`` is, and shares its data. :raises OSError: it did not work"""
    with _opened(source) as origin, _opened(path.parent) as parent:
        flags = _READ_ONLY if readonly else 0
        _call(parent, _SNAPSHOT, struct.pack("qQQ4Q4040s", origin, 0, flags, *[0] * 4, _name(path)))


def destroy(path: Path) -> None:
    """Remove a subvolume with what is in it; with another in it OSError is raised."""
    with _opened(path.parent) as parent:
        _call(parent, _DESTROY, struct.pack("q4088s", 0, _name(path)))


def _call(fd: int, request: int, argument: bytes) -> None:
    fcntl.ioctl(fd, request, bytearray(argument), True)  # in place: copies are of a kilobyte at most


def _name(path: Path) -> bytes:
    return os.fsencode(path.name)
