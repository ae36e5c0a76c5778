"""Appending to an image: what is given in pieces goes out in few large writes."""

from __future__ import annotations

import os

BLOCK = 4096
_GATHER = 1 << 20
_PIECES = 512  # IOV_MAX is 1024
_ZEROS = memoryview(bytes(BLOCK))


class Blocks:
    """The end of an image.

    :param fd: the image, open for writing
    :param at: where to begin, a whole number of blocks
    """

    def __init__(self, fd: int, at: int = 0) -> None:
        self._fd = fd
        self._begin = at
        self._held: list[memoryview | bytes] = []
        self.at = at
        """Where the next byte goes to."""

    @property
    def block(self) -> int:
        """The number of the block where the next byte goes to."""
        return self.at // BLOCK

    def add(self, data: memoryview | bytes) -> None:
        """Append bytes, which must not change any more. :raises OSError: they cannot be written"""
        if not data:
            return
        self._held.append(data)
        self.at += len(data)
        if self.at - self._begin >= _GATHER or len(self._held) >= _PIECES:
            self.flush()

    def pad(self, to: int = BLOCK) -> None:
        """Fill up with zeros to a multiple of ``to``."""
        missing = -self.at % to
        if missing:
            self.add(_ZEROS[:missing])

    def hole(self, size: int) -> None:
        """Pass over ``size`` bytes, which read as zeros and take no place on the disk."""
        if size:
            self.flush()
            self.at += size
            self._begin = self.at

    def flush(self) -> None:
        """Write what is held back."""
        held, at = self._held, self._begin
        while held:
            done = os.pwritev(self._fd, held, at)
            at += done
            if at == self.at:
                break
            while done >= len(held[0]):
                done -= len(held[0])
                del held[0]
            held[0] = memoryview(held[0])[done:]
        self._held = []
        self._begin = self.at
