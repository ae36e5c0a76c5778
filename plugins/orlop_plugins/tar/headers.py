"""Reading tar headers: POSIX pax and ustar, GNU (long names, base-256 numbers, sparse files), star, V7.

The rules are those of pax(1) and of GNU tar's manual ("Basic Tar Format", "Storing Sparse Files"); where
readers differ, this one sides with Go's archive/tar, which other container managers use, so that an archive
means the same everywhere. Every number is checked where it is read; nothing here is more than linear.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from orlopd.plugin.errors import DataLoss, InvalidArgument, OrlopError, ResourceExhausted

from .limits import Limits
from .streams import Stream

BLOCK = 512
REG, LINK, SYMLINK, CHAR, DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_REGULAR = (b"0", b"\0", b"7")
_KNOWN = frozenset((REG, LINK, SYMLINK, CHAR, DEVICE, DIRECTORY, FIFO))
_ZERO = bytes(BLOCK)
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_INT64 = (1 << 63) - 1
XATTR = b"SCHILY.xattr."
_NANO = 1_000_000_000


@dataclass(slots=True)
class Entry:
    """One member of an archive. ``size`` is how many bytes of data are stored; ``real_size`` the file's."""

    name: bytes
    type: bytes
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    pieces: list[tuple[int, int]] | None = None
    real_size: int = 0


def malformed(what: str) -> InvalidArgument:
    """The error for an archive that no writer makes by accident."""
    return InvalidArgument(f"malformed archive: {what}", reason="MALFORMED_ARCHIVE")


def show(name: bytes) -> str:
    """A name from an archive, fit for one line of a message."""
    text = name.decode("utf-8", "backslashreplace")
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return repr(text if len(text) <= 200 else text[:200] + "…")


def number(data: bytes) -> int:
    """A numeric field: octal digits, or base-256 in two's complement when the first bit is set."""
    digits = data.rstrip(b" \0")
    if not digits.isdigit():
        if data[0] & 0x80:
            value = int.from_bytes(data, "big")
            bits = len(data) * 8
            return value - (1 << bits) if data[0] & 0x40 else value & ~(1 << (bits - 1))
        digits = data.partition(b"\0")[0].strip(b" ")
        if not digits:
            return 0
        if not digits.isdigit():  # int() takes more than digits
            raise malformed(f"{data!r} is no number")
    try:
        return int(digits, 8)
    except ValueError:
        raise malformed(f"{data!r} is no number") from None


_known_number = lru_cache(1024)(number)
"""For fields that are the same in most entries."""


def parse_time(text: bytes) -> int:
    """A pax time, decimal seconds with a fraction of any length, as nanoseconds; never rounded up."""
    whole, _, fraction = text.partition(b".")
    digits = whole.removeprefix(b"-")
    if not digits.isdigit() or (fraction and not fraction.isdigit()) or len(digits) > 18:
        raise malformed(f"{text[:40]!r} is no time")
    nanoseconds = int(digits) * _NANO + int(fraction[:9].ljust(9, b"0") or b"0")
    return -nanoseconds if whole.startswith(b"-") else nanoseconds


def parse_pax(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records of a pax header, in order."""
    records: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 12)
        length = data[at:space] if space > 0 else b""
        end = at + int(length) if length.isdigit() else 0
        if not space + 1 < end <= len(data) or data[end - 1 : end] != b"\n":
            raise malformed("a pax record's length is wrong")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not key or not equals:
            raise malformed("a pax record has no key")
        records.append((key, value))
        at = end
    return records


def encode_xattr(name: bytes) -> bytes:
    """An attribute's name, fit for a pax key, which has no equals sign; GNU tar's way (xattrs.c)."""
    if b"=" in name or b"%3D" in name or b"%25" in name:
        return name.replace(b"%", b"%25").replace(b"=", b"%3D")
    return name  # so that readers which do not know about it see most names as they are


def _decode_xattr(text: bytes) -> bytes:
    return text.replace(b"%3D", b"=").replace(b"%25", b"%")


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 19:
        raise malformed(f"{what} {text[:40]!r} is no number")
    value = int(text)
    if value > _INT64:
        raise malformed(f"{what} {value} is too large")
    return value


class TarReader:
    """The entries of an archive, in order.

    :param stream: the uncompressed archive
    """

    def __init__(self, stream: Stream, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        # Bytes to the end of the current entry's last block, and how many of them only fill that up.
        self._left = 0
        self._padding = 0
        self._entries = 0
        self._extra = 0

    def __iter__(self) -> Generator[Entry]:
        """Every entry; its data may be read while it is the current one.

        :raises InvalidArgument: not a tar archive, or a malformed one
        :raises DataLoss: it ends too early
        :raises ResourceExhausted: a limit was met
        """
        while (entry := self._next()) is not None:
            self._entries += 1
            if self._entries > self._limits.entries:
                raise ResourceExhausted(
                    f"the archive has more than {self._limits.entries} entries",
                    reason="ARCHIVE_ENTRIES",
                    hint="raise max_entries of the differ in the config if you trust it",
                )
            yield entry

    def data(self) -> Iterable[memoryview]:
        """The current entry's stored bytes in pieces; all of them are to be taken."""
        size = self._left - self._padding
        self._left = self._padding
        return self._stream.pieces(size)

    def take(self, size: int) -> memoryview | None:
        """The next bytes of the current entry, ``size`` at most; None at its end."""
        size = min(size, self._left - self._padding)
        if size <= 0:
            return None
        for piece in self._stream.pieces(size):
            self._left -= len(piece)
            return piece
        return None

    def _end(self) -> None:
        """Pass over what is left of the current entry. What fills up its last block may be missing at the
        archive's end, where ``umoci insert`` leaves it out."""
        if self._left > self._padding:
            self._stream.skip(self._left - self._padding)
        if self._padding:
            self._stream.take(self._padding)
        self._left = self._padding = 0

    def _head(self) -> bytes:
        """The first block behind the current entry; empty at the archive's end."""
        if self._left == self._padding:
            block = self._stream.ready(BLOCK, self._padding)
            if block is not None:
                self._left = self._padding = 0
                return block
        self._end()
        return self._stream.take(BLOCK)

    def _next(self) -> Entry | None:
        records: list[tuple[bytes, bytes]] = []
        long_name = long_link = None
        while True:
            block = self._head()
            if not block or block == _ZERO:
                if records or long_name is not None or long_link is not None:
                    raise DataLoss("the archive ends after an extended header", reason="TRUNCATED")
                return None
            fields = _HEADER.unpack(block)
            self._checksum(block, fields[6])
            kind = fields[7]
            if kind == b"x":
                records = parse_pax(self._payload(fields))
            elif kind == b"g":
                self._payload(fields)  # meant for all that follow; other container managers pass over it too
            elif kind == b"L":
                long_name = self._payload(fields).partition(b"\0")[0]
            elif kind == b"K":
                long_link = self._payload(fields).partition(b"\0")[0]
            else:
                break
        self._extra = 0
        entry = self._entry(block, fields)
        if long_name is not None:
            entry.name = long_name
        if long_link is not None:
            entry.link = long_link
        pax = self._apply_pax(entry, records) if records else {}
        self._settle(entry, block, pax)
        return entry

    def _checksum(self, block: bytes, stored: bytes) -> None:
        total = sum(block) - sum(stored) + 8 * 32
        try:
            said = number(stored)
        except OrlopError:
            said = -1
        if said == total:
            return
        high = sum(1 for byte in block[:148] + block[156:] if byte > 127)
        if said != total - 256 * high:  # old writers summed signed bytes
            what = "not a tar archive" if not self._entries else "a header's checksum is wrong"
            raise malformed(what)

    def _payload(self, fields: tuple[bytes, ...]) -> bytes:
        size = number(fields[4])
        # Together, so that a chain of extended headers for one entry stays bounded as well.
        self._extra += size + BLOCK
        if size < 0 or self._extra > self._limits.header:
            raise ResourceExhausted(
                f"an entry's extended headers have more than {self._limits.header} bytes",
                reason="ARCHIVE_HEADER",
            )
        data = self._stream.take(size) if size else b""
        if len(data) != size:
            raise DataLoss("the archive ends in an extended header", reason="TRUNCATED")
        self._stream.skip(-size % BLOCK)
        return data

    def _entry(self, block: bytes, fields: tuple[bytes, ...]) -> Entry:
        name, mode, uid, gid, size, mtime, _, kind, link, magic, _, _, major, minor, prefix, tail = fields
        name = name.partition(b"\0")[0]
        if magic[:6] == b"ustar\0":
            if tail[8:12] == b"tar\0":  # star keeps times in the prefix's end
                prefix = prefix[:131]
            prefix = prefix.partition(b"\0")[0]
            if prefix:
                name = prefix + b"/" + name
        entry = Entry(
            name=name,
            type=kind,
            mode=_known_number(mode),
            uid=_known_number(uid),
            gid=_known_number(gid),
            size=number(size),
            mtime_ns=_known_number(mtime) * _NANO,
            link=link.partition(b"\0")[0],
        )
        if kind in (CHAR, DEVICE):
            entry.major, entry.minor = number(major), number(minor)
        return entry

    def _apply_pax(self, entry: Entry, records: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
        pax = dict(records)
        for key, value in pax.items():
            if key == b"path":
                entry.name = value
            elif key == b"linkpath":
                entry.link = value
            elif key == b"size":
                entry.size = _decimal(value, "a size of")
            elif key == b"uid":
                entry.uid = _decimal(value, "an owner of")
            elif key == b"gid":
                entry.gid = _decimal(value, "a group of")
            elif key == b"mtime":
                entry.mtime_ns = parse_time(value)
            elif key.startswith(XATTR):
                entry.xattrs.append((_decode_xattr(key[len(XATTR) :]), value))
        if any(key.startswith(b"GNU.sparse.") for key in pax):
            entry.name = pax.get(b"GNU.sparse.name", entry.name)
            if b"GNU.sparse.offset" in pax:
                wanted = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
                numbers = [value for key, value in records if key in wanted]
                pax[b"GNU.sparse.map"] = b",".join(numbers)
        return pax

    def _settle(self, entry: Entry, block: bytes, pax: dict[bytes, bytes]) -> None:
        """Check what was read, and find out where the data ends."""
        sparse = entry.type == b"S"
        if entry.type in _REGULAR or sparse:
            entry.type = REG
            if entry.name.endswith(b"/") and not sparse:
                entry.type = DIRECTORY
        if entry.type not in _KNOWN:
            raise malformed(f"entry {show(entry.name)} is of the unknown type {entry.type!r}")
        if b"\0" in entry.name or b"\0" in entry.link:
            raise malformed(f"entry {show(entry.name)} has a zero byte in a name")
        if not 0 <= entry.size <= _INT64:
            raise malformed(f"entry {show(entry.name)} has a size of {entry.size}")
        if entry.type != REG:
            # Only files have data, whatever the header's size says.
            entry.size = 0
            return
        stored = entry.size
        entry.real_size = entry.size
        self._left, self._padding = stored + (-stored % BLOCK), -stored % BLOCK
        if sparse:
            entry.pieces, entry.real_size = self._old_sparse(block)
        elif pax.get(b"GNU.sparse.major", b"0") == b"1":
            entry.real_size = _decimal(pax.get(b"GNU.sparse.realsize", b""), "a sparse size of")
            entry.pieces = self._sparse_map()
            entry.size = self._left - self._padding
        elif b"GNU.sparse.map" in pax:
            size = pax.get(b"GNU.sparse.size") or pax.get(b"GNU.sparse.realsize", b"")
            entry.real_size = _decimal(size, "a sparse size of")
            values = [_decimal(part, "an offset of") for part in pax[b"GNU.sparse.map"].split(b",") if part]
            entry.pieces = (
                list(zip(values[::2], values[1::2], strict=True)) if len(values) % 2 == 0 else [(-1, 0)]
            )
        if entry.pieces is not None:
            self._check_pieces(entry)
        if entry.real_size > self._limits.size:
            raise ResourceExhausted(
                f"entry {show(entry.name)} has {entry.real_size} bytes, more than {self._limits.size}",
                reason="ARCHIVE_TOO_LARGE",
            )

    def _old_sparse(self, block: bytes) -> tuple[list[tuple[int, int]], int]:
        pieces: list[tuple[int, int]] = []
        table, more = block[386:482], block[482]
        while True:
            for at in range(0, len(table) - 23, 24):
                if table[at] == 0:
                    break
                pieces.append((number(table[at : at + 12]), number(table[at + 12 : at + 24])))
            if not more:
                return pieces, number(block[483:495])
            if len(pieces) > self._limits.sparse_pieces:
                raise _too_many_pieces()
            extension = self._stream.take(BLOCK)
            if not extension:
                raise DataLoss("the archive ends in a sparse map", reason="TRUNCATED")
            table, more = extension[:504], extension[504]

    def _sparse_map(self) -> list[tuple[int, int]]:
        # Decimal numbers, a line each, first how many pairs; padded to a block. All of it counts as data.
        text = bytearray()
        lines, wanted = 0, 1
        while lines < wanted:
            if self._left < BLOCK:
                raise malformed("a sparse map is longer than its file")
            block = self._stream.take(BLOCK)
            self._left -= BLOCK
            text += block
            lines += block.count(b"\n")
            if wanted == 1 and lines:
                pairs = _decimal(bytes(text.partition(b"\n")[0]), "a sparse map of")
                if pairs > self._limits.sparse_pieces:
                    raise _too_many_pieces()
                wanted = 1 + 2 * pairs
        values = [_decimal(line, "an offset of") for line in bytes(text).split(b"\n")[1:wanted]]
        return list(zip(values[::2], values[1::2], strict=True))

    def _check_pieces(self, entry: Entry) -> None:
        end = 0
        for offset, size in entry.pieces or ():
            if offset < end or size < 0 or offset + size > entry.real_size:
                raise malformed(f"the sparse map of {show(entry.name)} is out of order")
            end = offset + size
        stored = sum(size for _, size in entry.pieces or ())
        if stored != self._left - self._padding:
            raise malformed(f"the sparse map of {show(entry.name)} does not fit its data")


def _too_many_pieces() -> ResourceExhausted:
    return ResourceExhausted("a sparse file has too many pieces", reason="ARCHIVE_HEADER")
