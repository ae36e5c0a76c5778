"""Files with holes: kept in chunks, of which those that are all hole are not there."""

from __future__ import annotations

import struct

from .blocks import BLOCK, Blocks

_NONE = b"\xff" * 4
_MOST_CHUNKS = 1 << 14
_NUMBER = struct.Struct("<I")


def chunk_shift(size: int) -> int:
    """How many times a chunk of a file of ``size`` bytes is twice a block: so that the map stays small."""
    return max(0, ((max(size, 1) - 1) // (_MOST_CHUNKS * BLOCK)).bit_length())


def map_size(size: int) -> int:
    """The bytes of the map of a file of ``size`` bytes."""
    return -(-size // (BLOCK << chunk_shift(size))) * _NUMBER.size


class SparseFile:
    """Appends the data of one file.

    :param size: of the file with all its holes
    """

    def __init__(self, out: Blocks, size: int) -> None:
        self._out = out
        self._size = size
        self._chunk = BLOCK << chunk_shift(size)
        self._current = -1
        self._begin = 0
        self._map = bytearray(_NONE * (map_size(size) // len(_NONE)))

    def add(self, offset: int, data: memoryview | bytes) -> None:
        """Append data that is at ``offset`` of the file, each time further on."""
        data = memoryview(data)
        while data:
            number, within = divmod(offset, self._chunk)
            if number != self._current:
                self._fill()
                self._current, self._begin = number, self._out.at
                _NUMBER.pack_into(self._map, number * _NUMBER.size, self._out.block)
            self._out.hole(self._begin + within - self._out.at)
            part = data[: self._chunk - within]
            self._out.add(part)
            offset += len(part)
            data = data[len(part) :]

    def end(self) -> bytes:
        """The map: the first block of each chunk, or that there is none."""
        self._fill()
        return bytes(self._map)

    def _fill(self) -> None:
        if self._current >= 0:
            end = min(self._chunk, self._size - self._current * self._chunk)
            self._out.hole(self._begin + end - self._out.at)
            self._out.pad()
