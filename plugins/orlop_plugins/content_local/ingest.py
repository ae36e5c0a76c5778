"""A blob on its way in.

Nothing of it is synced before the commit, so after a power cut its file may be as long as it was and be
empty all the same. Each write therefore leaves a mark: how far it came, and the digest up to there. Who
opens the ingest again reads what is there, and goes on from the last mark that is true.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio.to_thread

from orlopd.plugin.errors import Aborted, AlreadyExists, FailedPrecondition, OutOfRange
from orlopd.plugin.files import explain, remove_tree, sync_folder
from orlopd.plugin.values import BlobInfo, IngestStatus, now

_CHUNK = 1 << 20

_MARK = struct.Struct("<Q32s")
"""An offset, and the sha256 of all bytes before it."""
_MARK_EVERY = 1 << 20
"""Of the marks within as many bytes only the last is kept."""
_AT_ONCE = 64 << 20
"""How many bytes are looked through in one turn of a thread."""


class _Digests:
    """The digests of a file's first ``upto`` bytes, moved on as it grows."""

    def __init__(self, algorithms: set[str]) -> None:
        self.upto = 0
        self.by = {name: hashlib.new(name) for name in algorithms}

    def add(self, data: bytes) -> None:
        for digest in self.by.values():
            digest.update(data)
        self.upto += len(data)


class LocalIngest:
    """The one writer of a ref. Implements :class:`orlopd.plugin.content.Ingest`.

    :param folder: the ingest's folder, with its ``data``
    :param status: where it stands
    :param blob: the path of a blob by digest
    :param closed: called once when the writer lets go of the ref
    """

    def __init__(
        self,
        folder: Path,
        status: IngestStatus,
        blob: Callable[[str], Path],
        closed: Callable[[LocalIngest], None],
    ) -> None:
        self._folder = folder
        self._status = status
        self._blob = blob
        self._closed = closed
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(folder / "data", flags)
        try:
            self._marks = os.open(folder / "marks", flags | os.O_CREAT, 0o600)
        except BaseException:
            os.close(self._fd)
            raise
        self._lock = threading.Lock()
        self._gone = False
        self._algorithms = {"sha256", *([status.expected.partition(":")[0]] if status.expected else ())}
        self._digests = _Digests(self._algorithms)

    async def recover(self) -> None:
        """Find what of an earlier writer's bytes is as it was written, and cut off the rest."""
        try:
            marks = await anyio.to_thread.run_sync(lambda: sorted(self._read_marks()))
            good = 0
            while marks:
                good = await anyio.to_thread.run_sync(self._check_marks, marks, good)
            if good < self._status.offset:
                await self.truncate(good)
        except OSError as error:
            raise explain(error, f"cannot look through ingest {self._status.ref!r}") from error

    @property
    def status(self) -> IngestStatus:
        return self._status

    @property
    def path(self) -> str:
        """See :class:`orlopd.plugin.content.FileIngest`."""
        return str(self._folder / "data")

    async def write(self, data: bytes) -> None:
        await anyio.to_thread.run_sync(self._write, data)

    async def truncate(self, offset: int) -> None:
        await anyio.to_thread.run_sync(self._truncate, offset)

    async def digest(self) -> str:
        return await anyio.to_thread.run_sync(self._digest, "sha256")

    async def commit(self, size: int = 0, digest: str = "") -> BlobInfo:
        return await anyio.to_thread.run_sync(self._commit, size, digest)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the ref; what was written stays."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            os.close(self._marks)
            self._closed(self)

    def forget(self) -> None:
        """The ingest was aborted under this writer; later calls raise Aborted."""
        self._gone = True

    def _check(self) -> None:
        if self._gone or self._fd < 0:
            raise Aborted(f"ingest {self._status.ref!r} is gone", resource=f"ingest {self._status.ref}")

    def _write(self, data: bytes) -> None:
        with self._lock:
            self._check()
            offset = self._status.offset
            view = memoryview(data)
            done = 0
            try:
                while done < len(view):
                    done += os.pwrite(self._fd, view[done:], offset + done)
            except OSError as error:
                # What it left beyond the end is written over, or cut off by the commit.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, offset)
                raise explain(error, f"cannot write to ingest {self._status.ref!r}") from error
            if self._digests.upto == offset:
                self._digests.add(data)
            try:
                self._mark(offset + len(data))
            except OSError as error:
                self._digests = _Digests(self._algorithms)
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, offset)
                raise explain(error, f"cannot write to ingest {self._status.ref!r}") from error
            self._status = replace(self._status, offset=offset + len(data), updated_at=now())

    def _truncate(self, offset: int) -> None:
        with self._lock:
            self._check()
            if not 0 <= offset <= self._status.offset:
                raise OutOfRange(
                    f"cannot cut ingest {self._status.ref!r} at {offset}: it has {self._status.offset} bytes"
                )
            try:
                os.ftruncate(self._fd, offset)
                self._stand_at(offset)
                os.ftruncate(self._marks, offset // _MARK_EVERY * _MARK.size)
                self._mark(offset)
            except OSError as error:
                raise explain(error, f"cannot cut ingest {self._status.ref!r}") from error

    def _mark(self, offset: int) -> None:
        self._catch_up(offset)
        mark = _MARK.pack(offset, self._digests.by["sha256"].digest())
        os.pwrite(self._marks, mark, offset // _MARK_EVERY * _MARK.size)

    def _read_marks(self) -> Iterator[tuple[int, bytes]]:
        at = 0
        while marks := os.pread(self._marks, _MARK.size * 4096, at):
            at += len(marks)
            for offset, digest in _MARK.iter_unpack(marks[: len(marks) // _MARK.size * _MARK.size]):
                # Where a write was longer than the space between marks there is none.
                if offset <= self._status.offset and any(digest):
                    yield offset, digest

    def _check_marks(self, marks: list[tuple[int, bytes]], good: int) -> int:
        """Look through the next bytes; takes the marks passed away. Where the last true mark is."""
        with self._lock:
            self._check()
            last = self._digests.upto + _AT_ONCE
            while marks and self._digests.upto < last:
                offset, digest = marks.pop(0)
                self._catch_up(offset)
                if self._digests.by["sha256"].digest() != digest:
                    marks.clear()
                    break
                good = offset
            return good

    def _stand_at(self, offset: int) -> None:
        if offset < self._digests.upto:
            self._digests = _Digests(self._algorithms)
        self._status = replace(self._status, offset=offset, updated_at=now())

    def _digest(self, algorithm: str) -> str:
        with self._lock:
            self._check()
            return self._digest_of_all(algorithm)

    def _digest_of_all(self, algorithm: str) -> str:
        if algorithm not in self._digests.by:
            self._algorithms.add(algorithm)
            self._digests = _Digests(self._algorithms)
        try:
            self._catch_up(self._status.offset)
        except OSError as error:
            raise explain(error, f"cannot read ingest {self._status.ref!r}") from error
        return f"{algorithm}:{self._digests.by[algorithm].hexdigest()}"

    def _catch_up(self, offset: int) -> None:
        while self._digests.upto < offset:
            wanted = min(_CHUNK, offset - self._digests.upto)
            data = os.pread(self._fd, wanted, self._digests.upto)
            if not data:
                raise Aborted(f"ingest {self._status.ref!r} was cut short by somebody else")
            self._digests.add(data)

    def _commit(self, size: int, digest: str) -> BlobInfo:
        with self._lock:
            self._check()
            status = self._status
            if size and size != status.offset:
                raise FailedPrecondition(
                    f"ingest {status.ref!r} has {status.offset} bytes, expected {size}",
                    reason="SIZE_MISMATCH",
                    resource=f"ingest {status.ref}",
                )
            self._blob(digest or "sha256:" + "0" * 64)  # checks the digest's form first
            actual = self._digest_of_all(digest.partition(":")[0] or "sha256")
            if digest and actual != digest:
                raise FailedPrecondition(
                    f"ingest {status.ref!r} has digest {actual}, expected {digest}",
                    reason="DIGEST_MISMATCH",
                    resource=f"ingest {status.ref}",
                )
            try:
                there = self._publish(self._blob(actual))
            except OSError as error:
                raise explain(error, f"cannot commit ingest {status.ref!r}") from error
            # The blob is there for good. What cannot be removed of the ingest is swept at the next start.
            with contextlib.suppress(OSError):
                (self._folder / "state").unlink(missing_ok=True)
                remove_tree(self._folder)
            at = datetime.fromtimestamp(os.fstat(self._fd).st_mtime, UTC)
            self._gone = True
            self.close()
            if there:
                raise AlreadyExists(f"blob {actual} is there already", resource=f"blob {actual}")
            return BlobInfo(actual, status.offset, at, at)

    def _publish(self, path: Path) -> bool:
        """Give the bytes their name, durably; whether there was such a blob already."""
        if path.exists():
            # Its name may be as young as this: whoever gave it may not have come to this line.
            sync_folder(path.parent)
            return True
        if os.fstat(self._fd).st_size != self._status.offset:
            os.ftruncate(self._fd, self._status.offset)
        os.utime(self._fd)  # the blob's times are those of its commit
        try:
            os.fsync(self._fd)
        except OSError:
            # The kernel forgets which pages it could not write, and the next fsync would find nothing amiss.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            self._stand_at(0)
            raise
        data = self._folder / "data"
        data.rename(path)
        try:
            sync_folder(path.parent)
        except OSError:
            with contextlib.suppress(OSError):
                path.rename(data)
            raise
        return False
