"""What a foreign shim logs: it writes to a FIFO in its bundle and waits for a reader before it serves.

It comes to the daemon's log, and to the file shim.log in the bundle for who asks for this shim's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path

from ..oci.shimlog import NAME

log = logging.getLogger(__name__)

_PIECE = 64 << 10
_LONGEST = 4096
_MOST_KEPT = 1 << 20


class ShimLog:
    """Copies a shim's log into the daemon's. Used from the event loop only."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._fd = -1
        self._kept: Path | None = None
        self._rest = b""

    def open(self, fifo: Path) -> None:
        """Begin to read. :raises OSError: there is no such FIFO"""
        # For writing too: without a writer a FIFO is at its end, and the shim comes later.
        self._fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._kept = fifo.with_name(NAME)
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
        self._keep(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            log.info("shim of %s: %s", self._id, line[:_LONGEST].decode(errors="replace"))
        self._rest = self._rest[:_LONGEST]

    def _keep(self, data: bytes) -> None:
        if self._kept is None:
            return
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(self._kept, flags, 0o600)
            try:
                if os.fstat(fd).st_size > _MOST_KEPT:
                    os.ftruncate(fd, 0)
                os.write(fd, data)
            finally:
                os.close(fd)
