"""Blobs and ingests in memory, for tests of what reads and writes them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from orlopd.plugin.errors import FailedPrecondition, OutOfRange
from orlopd.plugin.values import BlobInfo, IngestStatus, now


class MemoryBlob:
    """A blob without a file. Implements :class:`orlopd.plugin.content.BlobReader`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def path(self) -> str | None:
        return None

    async def read_at(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class FileBlob(MemoryBlob):
    """A blob in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.read_bytes())
        self._path = path

    @property
    def path(self) -> str | None:
        return os.fspath(self._path)


class MemoryIngest:
    """An ingest that keeps what it gets in ``data``. Implements :class:`orlopd.plugin.content.Ingest`."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._at = now()

    @property
    def status(self) -> IngestStatus:
        return IngestStatus("memory", len(self.data), 0, "", self._at, self._at)

    async def write(self, data: bytes) -> None:
        self.data += data

    async def truncate(self, offset: int) -> None:
        if offset > len(self.data):
            raise OutOfRange(f"{offset} is beyond the end")
        del self.data[offset:]

    async def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.data).hexdigest()

    async def commit(self, size: int = 0, digest: str = "") -> BlobInfo:
        actual = await self.digest()
        if (size and size != len(self.data)) or (digest and digest != actual):
            raise FailedPrecondition("not what was expected")
        return BlobInfo(actual, len(self.data), self._at, self._at)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
