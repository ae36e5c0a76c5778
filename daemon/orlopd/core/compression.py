"""Gzip in both directions, as streams, off the event loop."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio.to_thread
from isal import isal_zlib as _untyped

from .tarstream import malformed

isal_zlib: Any = _untyped
"""Its stubs say next to nothing; its interface is the standard library's zlib."""

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_OTHERS = {ZSTD_MAGIC: "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_PIECE = 1 << 20
_GZIP = 31  # zlib's number for a window of 32 KiB in gzip's wrapping
_LEVEL = 2
# An archive of layers that are compressed already grows little; tars of text up to fortyfold.
_RATIO = 200
_RATIO_FROM = 256 << 20


async def plain(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The archive inside: itself, or what its gzip holds.

    :raises InvalidArgument: another compression, a damaged or truncated one, or an absurd ratio
    """
    head = bytearray()
    async for chunk in chunks:
        head += chunk
        if len(head) >= 6:
            break
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise malformed(f"it is compressed with {name}; want a tar, plain or with gzip")

    async def whole() -> AsyncGenerator[bytes]:
        yield bytes(head)
        async for chunk in chunks:
            yield chunk

    async with aclosing(_gunzip(whole()) if head.startswith(GZIP_MAGIC) else whole()) as inner:
        async for chunk in inner:
            yield chunk


async def _gunzip(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    inflater = isal_zlib.decompressobj(_GZIP)
    taken = given = 0
    async for chunk in chunks:
        taken += len(chunk)
        data = chunk
        while data:
            try:
                piece = await anyio.to_thread.run_sync(inflater.decompress, data, _PIECE)
            except isal_zlib.error as error:
                raise malformed(f"its gzip is damaged ({error})", "DAMAGED") from None
            given += len(piece)
            if given > _RATIO_FROM and given > taken * _RATIO:
                raise malformed(f"it unpacks to more than {_RATIO} times its size", "ARCHIVE_LIMIT")
            if piece:
                yield piece
            if inflater.eof:
                data = inflater.unused_data.lstrip(b"\0")
                if data:
                    inflater = isal_zlib.decompressobj(_GZIP)
            else:
                data = inflater.unconsumed_tail
    if not inflater.eof:
        raise malformed("it is truncated", "TRUNCATED")


class Gzip:
    """Compresses a layer and digests what goes in. The same bytes in give the same bytes out."""

    def __init__(self) -> None:
        self._deflater = isal_zlib.compressobj(_LEVEL, wbits=_GZIP)
        self._digest = hashlib.sha256()
        self._buffer = bytearray()

    @property
    def diff_id(self) -> str:
        """The digest of what went in."""
        return f"sha256:{self._digest.hexdigest()}"

    async def write(self, data: bytes | bytearray) -> bytes:
        """Compressed bytes that are ready, perhaps none."""
        self._buffer += data
        # Always pieces of one size: where the calls fall shows in what the compressor puts out.
        whole = len(self._buffer) - len(self._buffer) % _PIECE
        return await self._pass(whole, last=False) if whole else b""

    async def finish(self) -> bytes:
        """The rest."""
        return await self._pass(len(self._buffer), last=True)

    async def _pass(self, size: int, *, last: bool) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]

        def work() -> bytes:
            self._digest.update(data)
            out = [self._deflater.compress(data[at : at + _PIECE]) for at in range(0, size, _PIECE)]
            return b"".join([*out, self._deflater.flush()] if last else out)

        return await anyio.to_thread.run_sync(work)
