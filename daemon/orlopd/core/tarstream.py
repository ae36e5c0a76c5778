"""Tar as a stream: a bounded reader and a deterministic writer. Nothing here touches a filesystem.

The standard library's reader takes extended headers of any size into memory and has had several
weaknesses in parsing them; what this one reads comes from strangers. Formats: POSIX.1-2001 (ustar
and pax), and GNU's long names and binary numbers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from orlopd.plugin.errors import InvalidArgument

BLOCK = 512
_EXTENDED_LIMIT = 1 << 20
_EXTENDED_COUNT = 16
_NAME_LIMIT = 4096
MAX_SIZE = 1 << 43
"""The most bytes one member may have."""

_REGULAR = b"0\0"
_LINK, _SYMLINK, _DIRECTORY, _CONTIGUOUS = b"1", b"2", b"5", b"7"
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK, _GNU_SPARSE = b"x", b"g", b"L", b"K", b"S"


@dataclass(frozen=True, slots=True)
class Member:
    """One entry. ``name`` and ``target`` are as written; ``size`` counts the bytes of data that follow."""

    name: str
    type: bytes
    size: int
    target: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.type in _REGULAR or self.type == _CONTIGUOUS

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self.type == _SYMLINK

    @property
    def is_hard_link(self) -> bool:
        """Whether it is another name of an earlier file."""
        return self.type == _LINK


class TarReader:
    """Reads a tar from chunks of bytes: ``next``, then ``data`` of that member, and so on.

    :param limit: the most members, extended headers included
    """

    def __init__(self, chunks: AsyncIterator[bytes], *, limit: int = 1_000_000) -> None:
        self._chunks = chunks
        self._buffer = bytearray()
        self._limit = limit
        self._count = 0
        self._left = 0
        self._padding = 0
        self.raw = bytearray()
        """The last member's headers as they came, for one who passes the archive on."""

    async def next(self) -> Member | None:
        """The next member; None at the archive's end. What is left of the last one is passed over.

        :raises InvalidArgument: it is no tar, is truncated, or a limit was met
        """
        async for _ in self.data():
            pass
        self.raw.clear()
        fields: dict[str, str] = {}
        for _ in range(_EXTENDED_COUNT):
            block = await self._block()
            if block is None:
                return None
            self._count += 1
            if self._count > self._limit:
                raise malformed(f"it has more than {self._limit} entries", "ARCHIVE_LIMIT")
            kind, size = block[156:157], _number(block[124:136])
            if kind in (_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK):
                text = await self._extended(size)
                if kind == _PAX:
                    fields.update(_pax(text))
                elif kind == _GNU_NAME:
                    fields["path"] = _text(text)
                elif kind == _GNU_LINK:
                    fields["linkpath"] = _text(text)
                continue
            return self._member(block, kind, size, fields)
        raise malformed("one entry in it has too many extended headers", "ARCHIVE_LIMIT")

    async def data(self) -> AsyncGenerator[bytes]:
        """The bytes of the member that ``next`` returned, once."""
        while self._left:
            if not self._buffer:
                await self._fill()
            piece = bytes(self._buffer[: self._left])
            del self._buffer[: len(piece)]
            self._left -= len(piece)
            yield piece
        padding, self._padding = self._padding, 0
        if padding:
            await self._take(padding)

    async def read(self, limit: int) -> bytes:
        """All bytes of the member, a small one. :raises InvalidArgument: it is larger than ``limit``"""
        if self._left > limit:
            raise malformed(f"a document in it has {self._left} bytes; the limit is {limit}", "ARCHIVE_LIMIT")
        data = bytearray()
        async for piece in self.data():
            data += piece
        return bytes(data)

    def _member(self, block: bytes, kind: bytes, size: int, fields: dict[str, str]) -> Member:
        name, target = _text(block[:100]), _text(block[157:257])
        if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
            name = f"{prefix}/{name}"
        name, target = fields.get("path", name), fields.get("linkpath", target)
        if "size" in fields:
            size = _decimal(fields["size"])
        if kind == _GNU_SPARSE or any(key.startswith("GNU.sparse.") for key in fields):
            # Where the data ends would be told by a map after the header.
            raise malformed("it has sparse files, which only layers may have", "ARCHIVE_LIMIT")
        if len(name) > _NAME_LIMIT or len(target) > _NAME_LIMIT:
            raise malformed(f"a name in it is longer than {_NAME_LIMIT} characters", "ARCHIVE_LIMIT")
        # Links, devices and directories have no data, whatever their header says.
        self._left = size if kind in _REGULAR or kind == _CONTIGUOUS or kind not in b"123456" else 0
        self._padding = -self._left % BLOCK
        return Member(name, kind, self._left, target)

    async def _block(self) -> bytes | None:
        """The next header; None at two blocks of zeros, or at a clean end."""
        for _ in range(2):
            if not self._buffer and not await self._more():
                if self._count:
                    return None
                raise malformed("it is empty")
            block = await self._take(BLOCK, header=not self._count)
            if any(block):
                _check(block)
                self.raw += block
                return block
        return None

    async def _extended(self, size: int) -> bytes:
        if size > _EXTENDED_LIMIT:
            raise malformed(
                f"an extended header has {size} bytes; the limit is {_EXTENDED_LIMIT}", "ARCHIVE_LIMIT"
            )
        data = await self._take(size + -size % BLOCK)
        self.raw += data
        return data[:size]

    async def _take(self, size: int, *, header: bool = False) -> bytes:
        while len(self._buffer) < size:
            if header and not await self._more():
                raise malformed(f"it is not a tar archive, or truncated: it has {len(self._buffer)} bytes")
            if not header:
                await self._fill()
        piece = bytes(self._buffer[:size])
        del self._buffer[:size]
        return piece

    async def _fill(self) -> None:
        if not await self._more():
            raise malformed("it is truncated", "TRUNCATED")

    async def _more(self) -> bool:
        while (chunk := await anext(self._chunks, None)) is not None:
            if chunk:
                self._buffer += chunk
                return True
        return False


def malformed(what: str, reason: str = "MALFORMED_ARCHIVE") -> InvalidArgument:
    """The error for an archive; ``what`` is a clause about "it"."""
    return InvalidArgument(f"the archive cannot be used: {what}", reason=reason)


def header(name: str, size: int, *, directory: bool = False) -> bytes:
    """A ustar header that depends on nothing but its arguments. ``name`` has at most 100 ASCII characters."""
    encoded = name.encode("ascii")
    assert len(encoded) <= 100, name
    mode = b"0000755" if directory else b"0000644"
    size_field = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
    block = bytearray(BLOCK)
    block[0 : len(encoded)] = encoded
    block[100:157] = (
        mode
        + b"\0"
        + b"0000000\0" * 2
        + size_field
        + b"%011o\0" % 0
        + b" " * 8
        + (_DIRECTORY if directory else b"0")
    )
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padding(size: int) -> bytes:
    """The zeros that fill the last block of ``size`` bytes of data."""
    return bytes(-size % BLOCK)


END = bytes(2 * BLOCK)
"""What ends an archive."""


def _check(block: bytes) -> None:
    """:raises InvalidArgument: the header's checksum is wrong"""
    said = _number(block[148:156])
    # Some old writers summed signed bytes.
    plain = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(plain)
    signed = unsigned - 256 * sum(1 for byte in plain if byte > 127)
    if said not in (unsigned, signed):
        raise malformed("it is no tar, or damaged: a header's checksum is wrong")


def _number(field: bytes) -> int:
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
    elif field[0] == 0xFF:
        raise malformed("a number in it is negative")
    else:
        text = field.rstrip(b" \0").lstrip(b" ")
        if text.strip(b"01234567"):
            raise malformed("it is no tar, or damaged: a number in a header is malformed")
        value = int(text or b"0", 8)
    if not 0 <= value <= MAX_SIZE:
        raise malformed("a size in it is out of range")
    return value


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) > MAX_SIZE:
        raise malformed("a size in an extended header is malformed")
    return int(text)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    """The records of a pax header: "LENGTH KEY=VALUE\\n" each."""
    fields: dict[str, str] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 12)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit():
            raise malformed("an extended header is malformed")
        end = position + int(digits)
        record = data[space + 1 : end - 1]
        key, equals, value = record.partition(b"=")
        if end <= space + 1 or end > len(data) or data[end - 1 : end] != b"\n" or not equals:
            raise malformed("an extended header is malformed")
        fields[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        position = end
    return fields
