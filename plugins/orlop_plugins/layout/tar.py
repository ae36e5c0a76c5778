"""Where the files of a tar lie, so that each can be read by itself. Nothing is ever extracted.

Formats: POSIX.1-2001 (ustar and pax), GNU's long names. Only files of this machine, opened once.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

from orlopd.plugin.errors import InvalidArgument

_BLOCK = 512
_MOST_MEMBERS = 100_000
_MOST_EXTENDED = 1 << 20
_MOST_HOPS = 8


class Range(NamedTuple):
    """Bytes of the archive."""

    start: int
    size: int


class TarFile:
    """An open archive, and its files by their cleaned names."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self._files: dict[str, Range] = {}
        self._links: dict[str, str] = {}
        self._index()

    def find(self, name: str) -> Range | None:
        """Where a file lies, links inside the archive followed."""
        name = clean(name)
        for _ in range(_MOST_HOPS):
            if name in self._files:
                return self._files[name]
            if name not in self._links:
                return None
            name = self._links[name]
        return None

    def read_all(self, name: str, limit: int) -> bytes | None:
        """A whole small file; None where there is none. :raises InvalidArgument: it is beyond ``limit``"""
        found = self.find(name)
        if found is None:
            return None
        if found.size > limit:
            raise self.malformed(f"its {name} has {found.size} bytes; the limit is {limit}")
        return self.read(found, 0, found.size)

    def read(self, where: Range, offset: int, size: int) -> bytes:
        """Bytes of a file. :raises InvalidArgument: the archive is truncated"""
        size = max(0, min(size, where.size - offset))
        data = os.pread(self._descriptor, size, where.start + offset)
        if len(data) < size and where.start + offset + len(data) >= os.fstat(self._descriptor).st_size:
            raise self.malformed("it is truncated")
        return data

    def malformed(self, what: str) -> InvalidArgument:
        """The error for this archive."""
        return InvalidArgument(
            f"{self._path} is no archive of images that can be read: {what}", reason="MALFORMED_ARCHIVE"
        )

    def _index(self) -> None:
        total = os.fstat(self._descriptor).st_size
        at, members, name, target, size = 0, 0, "", "", -1
        while at + _BLOCK <= total:
            header = os.pread(self._descriptor, _BLOCK, at)
            if not any(header):
                return
            at += _BLOCK
            self._check_sum(header, members)
            length, kind = self._number(header[124:136]), header[156:157]
            members += 1
            if members > _MOST_MEMBERS:
                raise self.malformed(f"it has more than {_MOST_MEMBERS} entries")
            if kind in b"xLKg" and kind:
                if length > _MOST_EXTENDED:
                    raise self.malformed("it has an extended header of absurd size")
                data = os.pread(self._descriptor, length, at)
                if kind == b"L":
                    name = _text(data)
                elif kind == b"K":
                    target = _text(data)
                elif kind == b"x":
                    name, target, size = self._pax(data, name, target)
            else:
                length = size if size >= 0 else length
                self._take(header, kind, Range(at, length), name, target)
                name, target, size = "", "", -1
            at += -(-length // _BLOCK) * _BLOCK

    def _take(self, header: bytes, kind: bytes, where: Range, name: str, target: str) -> None:
        if not name:
            name = _text(header[:100])
            if (
                header[257:262] == b"ustar"
                and header[262:263] == b"\0"
                and (prefix := _text(header[345:500]))
            ):
                name = f"{prefix}/{name}"
        target = target or _text(header[157:257])
        name = clean(name)
        if kind in (b"0", b"\0", b"7"):
            self._files[name] = where
        elif kind == b"2":
            self._links[name] = clean(posixpath.join(posixpath.dirname(name), target))
        elif kind == b"1":
            self._links[name] = clean(target)

    def _check_sum(self, header: bytes, members: int) -> None:
        said = self._number(header[148:156])
        if said != sum(header[:148]) + 8 * 0x20 + sum(header[156:]):
            if not members:
                raise self.malformed("it is not a tar; one that is compressed can be imported")
            raise self.malformed("a header in it is damaged")

    def _number(self, field: bytes) -> int:
        if field[0] & 0x80:
            value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        else:
            digits = field.strip(b" \0")
            if digits.strip(b"01234567"):
                raise self.malformed("it is not a tar, or a header in it is damaged")
            value = int(digits or b"0", 8)
        if value > 1 << 43:
            raise self.malformed("it has an entry of absurd size")
        return value

    def _pax(self, data: bytes, name: str, target: str) -> tuple[str, str, int]:
        size = -1
        while data:
            digits, space, _ = data[:20].partition(b" ")
            if not space or not digits.isdigit() or not len(digits) + 1 < int(digits) <= len(data):
                raise self.malformed("an extended header in it is damaged")
            record, data = data[len(digits) + 1 : int(digits) - 1], data[int(digits) :]
            key, _, value = record.partition(b"=")
            if key == b"path":
                name = value.decode(errors="replace")
            elif key == b"linkpath":
                target = value.decode(errors="replace")
            elif key == b"size":
                size = self._decimal(value)
        return name, target, size

    def _decimal(self, value: bytes) -> int:
        if not value.isdigit() or len(value) > 13:
            raise self.malformed("an extended header in it is damaged")
        return int(value)


@contextmanager
def open_tar(path: str) -> Generator[TarFile]:
    """Open an archive. :raises OSError: it cannot be. :raises InvalidArgument: it is none"""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidArgument(f"{path} is no file", reason="MALFORMED_ARCHIVE")
        yield TarFile(descriptor, path)
    finally:
        os.close(descriptor)


def clean(path: str) -> str:
    """A name as a key: nothing is ever opened by it."""
    return posixpath.normpath("/" + path).lstrip("/")


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace")
