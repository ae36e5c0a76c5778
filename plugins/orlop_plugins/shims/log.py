"""What a foreign shim logs: it writes to a FIFO in its bundle and waits for a reader before it serves."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

_PIECE = 64 << 10
_LONGEST = 4096


class ShimLog:
    """Copies a shim's log into the daemon's. Used from the event loop only."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._fd = -1
        self._rest = b""

    def open(self, fifo: Path) -> None:
        """Begin to read. :raises OSError: there is no such FIFO"""
        # For writing too: without a writer a FIFO is at its end, and the shim comes later.
        self._fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def close(self) -> None:
        """Read no more. May be called twice, and without open()."""
        if self._fd >= 0:
            self._read()
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _PIECE)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            log.info("shim of %s: %s", self._id, line[:_LONGEST].decode(errors="replace"))
        self._rest = self._rest[:_LONGEST]
