"""Writing tar archives: pax, with nothing in them that is not of the files."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Protocol

import zstandard
from isal import isal_zlib

from .headers import (
    BLOCK,
    CHAR,
    DEVICE,
    DIRECTORY,
    FIFO,
    LINK,
    REG,
    SYMLINK,
    XATTR,
    Entry,
    encode_xattr,
)
from .streams import CHUNK, write_all

_NANO = 1_000_000_000
_GZIP = 31
_GZIP_LEVEL = 2
_ZSTD_LEVEL = 3
_OCTAL_7, _OCTAL_11 = 0o7777777, 0o77777777777


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _None:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def _compressor(name: str) -> _Compressor:
    # One thread and fixed levels: the same bytes in give the same bytes out.
    if name == "gzip":
        return isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP)
    if name == "zstd":
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
    return _None()


class TarWriter:
    """Writes an archive to a descriptor.

    :param compression: "", "gzip" or "zstd"
    :param newest: in nanoseconds; later times are written as this one
    """

    def __init__(self, fd: int, compression: str, newest: int | None = None) -> None:
        self._fd = fd
        self._newest = newest
        self._compressor = _compressor(compression)
        self._hash = hashlib.sha256()
        self._parts: list[bytes] = []
        self._held = 0
        self.count = 0

    def write(self, data: bytes) -> None:
        """Append bytes as they are."""
        self._parts.append(data)
        self._held += len(data)
        if self._held >= CHUNK:
            self._flush()

    def pad(self, size: int) -> None:
        """Fill up the last block of ``size`` bytes of data."""
        self.write(bytes(-size % BLOCK))

    def header(self, entry: Entry) -> None:
        """Write an entry's header or headers."""
        if self._newest is not None:
            entry.mtime_ns = min(entry.mtime_ns, self._newest)
        self.write(_headers(entry))

    def close(self) -> str:
        """End the archive; the digest of its uncompressed bytes."""
        self.write(bytes(2 * BLOCK))
        self._flush()
        write_all(self._fd, self._compressor.flush())
        return "sha256:" + self._hash.hexdigest()

    def _flush(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        self._hash.update(data)
        self.count += len(data)
        packed = self._compressor.compress(data)
        if packed:
            write_all(self._fd, packed)


def entry_of(name: bytes, info: os.stat_result) -> Entry:
    """An entry with what lstat tells."""
    mode = info.st_mode
    kinds = (
        (stat.S_ISREG, REG),
        (stat.S_ISDIR, DIRECTORY),
        (stat.S_ISLNK, SYMLINK),
        (stat.S_ISCHR, CHAR),
        (stat.S_ISBLK, DEVICE),
        (stat.S_ISFIFO, FIFO),
    )
    kind = next(kind for test, kind in kinds if test(mode))
    entry = Entry(
        name=name + b"/" if kind == DIRECTORY else name,
        type=kind,
        mode=0o777 if kind == SYMLINK else stat.S_IMODE(mode),
        uid=info.st_uid,
        gid=info.st_gid,
        mtime_ns=info.st_mtime_ns,
    )
    if kind in (CHAR, DEVICE):
        entry.major, entry.minor = os.major(info.st_rdev), os.minor(info.st_rdev)
    return entry


def hard_link(entry: Entry, target: bytes) -> Entry:
    """The entry for a further name of a file."""
    entry.type, entry.link, entry.size, entry.xattrs, entry.pieces = LINK, target, 0, [], None
    return entry


def sparse_map(pieces: list[tuple[int, int]]) -> bytes:
    """The map that comes ahead of a sparse file's data (GNU tar's format 1.0), padded."""
    lines = [len(pieces), *(number for piece in pieces for number in piece)]
    text = b"".join(b"%d\n" % number for number in lines)
    return text + bytes(-len(text) % BLOCK)


def _headers(entry: Entry) -> bytes:
    pax: dict[bytes, bytes] = {XATTR + encode_xattr(name): value for name, value in entry.xattrs}
    name, link, size = entry.name, entry.link, entry.size
    if entry.pieces is not None:
        pax[b"GNU.sparse.major"], pax[b"GNU.sparse.minor"] = b"1", b"0"
        pax[b"GNU.sparse.name"] = name
        pax[b"GNU.sparse.realsize"] = b"%d" % entry.real_size
        size += len(sparse_map(entry.pieces))
        name = b"GNUSparseFile.0/" + name.rpartition(b"/")[2][:80]
    elif len(name) > 100 or not name.isascii():
        pax[b"path"] = name
    if len(link) > 100 or not link.isascii():
        pax[b"linkpath"] = link
    for key, value, limit in (
        (b"uid", entry.uid, _OCTAL_7),
        (b"gid", entry.gid, _OCTAL_7),
        (b"size", size, _OCTAL_11),
    ):
        if value > limit:
            pax[key] = b"%d" % value
    seconds, fraction = divmod(entry.mtime_ns, _NANO)
    if fraction or not 0 <= seconds <= _OCTAL_11:
        pax[b"mtime"] = _time(entry.mtime_ns)
    block = _block(entry, name, link, size, entry.type)
    if not pax:
        return block
    records = b"".join(_record(key, pax[key]) for key in sorted(pax))
    # Its own fields say nothing of the file, so that they never need a header of their own.
    about = Entry(b"PaxHeaders.0/" + name.rstrip(b"/").rpartition(b"/")[2][:80], b"x", mode=0o644)
    head = _block(about, about.name, b"", len(records), b"x")
    return head + records + bytes(-len(records) % BLOCK) + block


def _time(nanoseconds: int) -> bytes:
    seconds, fraction = divmod(abs(nanoseconds), _NANO)
    text = b"%d" % seconds
    if fraction:
        text += b"." + (b"%09d" % fraction).rstrip(b"0")
    return b"-" + text if nanoseconds < 0 else text


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(b"%d" % length) + len(body) != length:  # the length counts its own digits
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def _block(entry: Entry, name: bytes, link: bytes, size: int, kind: bytes) -> bytes:
    def octal(value: int, width: int) -> bytes:
        limit = 8 ** (width - 1) - 1
        return b"%0*o\0" % (width - 1, value if 0 <= value <= limit else 0)

    devices = entry.type in (CHAR, DEVICE)
    fields = (
        name[:100].ljust(100, b"\0"),
        octal(entry.mode, 8),
        octal(entry.uid, 8),
        octal(entry.gid, 8),
        octal(size, 12),
        octal(entry.mtime_ns // _NANO, 12),
        b" " * 8,
        kind,
        link[:100].ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(64),
        octal(entry.major if devices else 0, 8),
        octal(entry.minor if devices else 0, 8),
        bytes(155 + 12),
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
