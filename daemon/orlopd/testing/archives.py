"""Archives that no ordinary writer makes, byte by byte."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

BLOCK = 512
END = bytes(2 * BLOCK)


@dataclass(frozen=True)
class Member:
    """One entry. ``pax`` goes into an extended header ahead of it; ``size`` lies about the data if given."""

    name: bytes | str
    data: bytes = b""
    type: bytes = b"0"
    link: bytes | str = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_500_000_000
    size: int | None = None
    device: tuple[int, int] = (0, 0)
    pax: Mapping[bytes, bytes] = field(default_factory=dict[bytes, bytes])

    def encode(self) -> bytes:
        """The entry's blocks."""
        head = b""
        if self.pax:
            records = b"".join(pax_record(key, value) for key, value in self.pax.items())
            head = header(b"pax", b"x", len(records)) + padded(records)
        size = len(self.data) if self.size is None else self.size
        return (
            head
            + header(
                _bytes(self.name),
                self.type,
                size,
                link=_bytes(self.link),
                mode=self.mode,
                uid=self.uid,
                gid=self.gid,
                mtime=self.mtime,
                device=self.device,
            )
            + padded(self.data)
        )


def folder(name: str, mode: int = 0o755, *, uid: int = 0, gid: int = 0, mtime: int = 1) -> Member:
    """A directory."""
    return Member(name, type=b"5", mode=mode, uid=uid, gid=gid, mtime=mtime)


def symlink(name: str, target: str) -> Member:
    """A symbolic link."""
    return Member(name, type=b"2", link=target, mode=0o777)


def link(name: str, target: str) -> Member:
    """A hard link."""
    return Member(name, type=b"1", link=target)


def archive(members: Iterable[Member | bytes]) -> bytes:
    """A whole archive; bytes among the members go in as they are."""
    return b"".join(item if isinstance(item, bytes) else item.encode() for item in members) + END


def gzipped(data: bytes, level: int = 1) -> bytes:
    """Compressed, without the time in it. :param level: 0 for as it is, in the form of gzip"""
    return gzip.compress(data, compresslevel=level, mtime=0)


def padded(data: bytes) -> bytes:
    """Filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def pax_record(key: bytes, value: bytes) -> bytes:
    """One record of an extended header."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def numeric(value: int, width: int) -> bytes:
    """A numeric field: octal, or base-256 where octal does not do."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return bytes([0x80 if value >= 0 else 0xFF]) + (value % (1 << (8 * (width - 1)))).to_bytes(
        width - 1, "big"
    )


def header(
    name: bytes,
    type: bytes,
    size: int,
    *,
    link: bytes = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    device: tuple[int, int] = (0, 0),
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """One header block; names are cut to their fields."""
    fields = (
        name[:100].ljust(100, b"\0"),
        numeric(mode, 8),
        numeric(uid, 8),
        numeric(gid, 8),
        numeric(size, 12),
        numeric(mtime, 12),
        b" " * 8,
        type,
        link[:100].ljust(100, b"\0"),
        magic,
        bytes(64),
        numeric(device[0], 8),
        numeric(device[1], 8),
        bytes(155 + 12),
    )
    return checked(b"".join(fields))


def checked(block: bytes) -> bytes:
    """A header block with its checksum set."""
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text
