"""A blob that is read while it comes, so that an unpack ends when the last byte is there, not begins then."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread

from orlopd.plugin.errors import Aborted


class Arrival:
    """Implements :class:`orlopd.plugin.content.ArrivingBlob`; whoever writes the file says how far it is.

    :param path: the file; it is opened now, and may be renamed later
    :param size: how many bytes there will be
    :raises OSError: it cannot be opened
    """

    def __init__(self, path: str, size: int) -> None:
        self.size = size
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._have = 0
        self._dropped = self._kept = False
        self._grew = anyio.Event()

    @property
    def path(self) -> str | None:
        """See :class:`orlopd.plugin.content.BlobReader`."""
        return None

    @property
    def dropped(self) -> bool:
        """Whether what was read of it is worth nothing."""
        return self._dropped

    @property
    def kept(self) -> bool:
        """Whether all of it came, and is what it should be."""
        return self._kept

    def fileno(self) -> int:
        """See :class:`orlopd.plugin.content.ArrivingBlob`."""
        return self._fd

    def grow(self, have: int) -> None:
        """So many bytes are there now."""
        self._have = have
        self._stir()

    def keep(self) -> None:
        """It is in the store."""
        self._kept = True

    def drop(self) -> None:
        """The bytes are being dropped. What may come in their place is for another arrival."""
        self._dropped = True
        self._stir()

    def _stir(self) -> None:
        self._grew.set()
        self._grew = anyio.Event()

    async def wait(self, beyond: int) -> int:
        """See :class:`orlopd.plugin.content.ArrivingBlob`."""
        while self._have < self.size and self._have <= beyond and not self._dropped:
            await self._grew.wait()
        if self._dropped:
            raise Aborted("what came of the blob so far was dropped")
        return self._have

    async def read_at(self, offset: int, size: int) -> bytes:
        """See :class:`orlopd.plugin.content.BlobReader`; waits for what is not there yet."""
        have = await self.wait(offset)
        return await anyio.to_thread.run_sync(os.pread, self._fd, max(0, min(size, have - offset)), offset)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __del__(self) -> None:
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            os.close(fd)
