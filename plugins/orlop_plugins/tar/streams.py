"""From a blob to tar bytes: read, hash, decompress, hash again, in one pass and bounded memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterable
from typing import IO, Protocol, cast

import zstandard
from isal import igzip_lib, isal_zlib

from orlopd.plugin.errors import DataLoss, ResourceExhausted

from .limits import Limits

READ = 1 << 18
CHUNK = 1 << 20
# What a zstd frame may make us keep in memory; `zstd --ultra -22` wants this much.
_ZSTD_WINDOW = 1 << 27
_REPORT = 4 << 20
_GZIP_ERROR = cast("type[Exception]", isal_zlib.error)  # its stubs take it for an instance
_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"


class Raw:
    """The blob as it is stored.

    :param fd: where it is read from: a file or a pipe
    :param algorithm: of its digest; empty where nobody wants to know it
    :param progress: called now and then with the bytes read so far
    :param arriving: for a file that is still being written: how many bytes it will have, and what waits until
        there are more than so many, and says how many there are
    """

    def __init__(
        self,
        fd: int,
        algorithm: str,
        progress: Callable[[int], None],
        arriving: tuple[int, Callable[[int], int]] | None = None,
    ) -> None:
        self._fd = fd
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm) if algorithm else None
        self._size, self._wait = arriving or (0, None)
        self._there = 0
        self._progress = progress
        self._reported = 0
        self._pushed = b""
        self.count = 0

    def read(self, size: int = READ) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        if self._pushed:
            data, self._pushed = self._pushed[:size], self._pushed[size:]
            return data
        if self._wait is not None:
            if self._there <= self.count < self._size:
                self._there = self._wait(self.count)
            size = min(size, self._there - self.count)
        data = os.read(self._fd, size)
        if self._hash is not None:
            self._hash.update(data)
        self.count += len(data)
        if self.count - self._reported >= _REPORT:
            self._reported = self.count
            self._progress(self.count)
        return data

    def push(self, data: bytes) -> None:
        """Have ``data`` read again."""
        self._pushed = data + self._pushed

    def peek(self, size: int) -> bytes:
        """The first bytes, which are read again."""
        head = b""
        while len(head) < size and (more := self.read()):
            head += more
        self.push(head)
        return head[:size]

    def drain(self) -> None:
        """Read what is left, so that the digest covers all."""
        while self.read():
            pass

    def digest(self) -> str:
        """The digest of what was read, where an algorithm was named."""
        assert self._hash is not None
        return f"{self._algorithm}:{self._hash.hexdigest()}"


class _Decoder(Protocol):
    def chunk(self) -> bytes:
        """Some more bytes, CHUNK at most; empty at the end. :raises DataLoss: corrupt or cut short"""
        ...


class _Plain:
    def __init__(self, raw: Raw) -> None:
        self._raw = raw

    def chunk(self) -> bytes:
        return self._raw.read()


class _Gzip:
    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    def chunk(self) -> bytes:
        while True:
            if self._member.eof and not self._next_member():
                return b""
            data = b""
            if self._member.needs_input:
                data = self._raw.read()
                if not data:
                    raise DataLoss("the gzip stream ends too early", reason="TRUNCATED")
            try:
                out = self._member.decompress(data, CHUNK)
            except _GZIP_ERROR as error:
                raise DataLoss(f"the gzip stream is corrupt: {error}", reason="CORRUPT") from error
            if out:
                return out

    def _next_member(self) -> bool:
        rest = self._member.unused_data
        while not rest.strip(b"\0"):  # some writers pad with zeros
            rest = self._raw.read()
            if not rest:
                return False
        if not rest.startswith(_GZIP_MAGIC[: len(rest)]):
            raise DataLoss("garbage after the gzip stream", reason="CORRUPT")
        self._member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        self._raw.push(rest)
        return True


class _Zstd:
    def __init__(self, raw: Raw) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._raw = raw
        self._reader = decompressor.stream_reader(
            cast("IO[bytes]", raw), read_size=READ, read_across_frames=True, closefd=False
        )

    def chunk(self) -> bytes:
        try:
            return self._reader.read(CHUNK)
        except zstandard.ZstdError as error:
            raise DataLoss(f"the zstd stream is corrupt: {error}", reason="CORRUPT") from error


def _decoder(raw: Raw) -> _Decoder:
    # What it is decides, not what the media type says: Docker's types never told the truth reliably.
    head = raw.peek(len(_ZSTD_MAGIC))
    if head.startswith(_GZIP_MAGIC):
        return _Gzip(raw)
    if head == _ZSTD_MAGIC or (head[1:] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50):
        return _Zstd(raw)
    return _Plain(raw)


class Stream:
    """The uncompressed bytes, in order, each once.

    :raises DataLoss: the blob is corrupt or cut short (by every method that reads)
    :raises ResourceExhausted: a limit was met (likewise)
    """

    def __init__(self, raw: Raw, limits: Limits) -> None:
        self._raw = raw
        self._limits = limits
        self._decoder = _decoder(raw)
        self.compressed = not isinstance(self._decoder, _Plain)
        self._hash = hashlib.sha256()
        # What is at hand: a chunk, and where in it the next byte is. Slices are taken from it only when asked
        # for, since most archives are small files.
        self._chunk = b""
        self._at = 0
        self.count = 0

    def _fill(self) -> bool:
        data = self._decoder.chunk()
        if not data:
            return False
        self._hash.update(data)
        self.count += len(data)
        if self.count > self._limits.size:
            raise ResourceExhausted(
                f"the archive has more than {self._limits.size} bytes unpacked",
                reason="ARCHIVE_TOO_LARGE",
                hint="raise max_size of the differ in the config if you trust it",
            )
        if self.count > self._limits.ratio_from and self.count > self._limits.ratio * self._raw.count:
            raise ResourceExhausted(
                f"the archive unpacks to more than {self._limits.ratio} times its size",
                reason="ARCHIVE_RATIO",
                hint="raise max_ratio of the differ in the config if you trust it",
            )
        self._chunk, self._at = data, 0
        return True

    def ready(self, size: int, passing: int = 0) -> bytes | None:
        """The next ``size`` bytes behind ``passing`` ones; None, and nothing read, if not all are at hand."""
        begin = self._at + passing
        end = begin + size
        if end > len(self._chunk):
            return None
        self._at = end
        return self._chunk[begin:end]

    def take(self, size: int) -> bytes:
        """Exactly ``size`` bytes, for small sizes; empty at the stream's very end."""
        if (data := self.ready(size)) is not None:
            return data
        parts: list[bytes] = []
        wanted = size
        while wanted:
            if self._at == len(self._chunk) and not self._fill():
                if wanted == size:
                    return b""
                raise DataLoss("the archive ends in the middle of an entry", reason="TRUNCATED")
            part = self._chunk[self._at : self._at + wanted]
            self._at += len(part)
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def pieces(self, size: int) -> Iterable[memoryview]:
        """Exactly ``size`` bytes in pieces as they come; what is all at hand is passed over at once."""
        begin, end = self._at, self._at + size
        if end > len(self._chunk):
            return self._rest(size)
        self._at = end
        return (memoryview(self._chunk)[begin:end],) if size else ()

    def _rest(self, size: int) -> Generator[memoryview]:
        while size:
            if self._at == len(self._chunk) and not self._fill():
                raise DataLoss("the archive ends in the middle of a file", reason="TRUNCATED")
            piece = memoryview(self._chunk)[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        """Pass over exactly ``size`` bytes."""
        for _ in self.pieces(size):
            pass

    def finish(self) -> str:
        """Read to the end of the blob; the digest of the uncompressed bytes."""
        while self._fill():
            pass
        self._raw.drain()
        return "sha256:" + self._hash.hexdigest()


def write_all(fd: int, data: memoryview | bytes, offset: int | None = None) -> None:
    """Write all of ``data``, at ``offset`` or where the file stands."""
    view = memoryview(data)
    while view:
        done = os.write(fd, view) if offset is None else os.pwrite(fd, view, offset)
        view = view[done:]
        offset = None if offset is None else offset + done
