"""A blob on its way in."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
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
        self._fd = os.open(folder / "data", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._lock = threading.Lock()
        self._gone = False
        self._algorithms = {"sha256", *([status.expected.partition(":")[0]] if status.expected else ())}
        # After a restart the bytes that lie there are read again, but only when their digest is asked for.
        self._digests = _Digests(self._algorithms)

    @property
    def status(self) -> IngestStatus:
        return self._status

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
            except OSError as error:
                raise explain(error, f"cannot cut ingest {self._status.ref!r}") from error
            self._stand_at(offset)

    def _stand_at(self, offset: int) -> None:
        if offset < self._digests.upto:
            self._digests = _Digests(self._algorithms)
        self._status = replace(self._status, offset=offset, updated_at=now())

    def _digest(self, algorithm: str) -> str:
        with self._lock:
            self._check()
            return self._catch_up(algorithm)

    def _catch_up(self, algorithm: str) -> str:
        if algorithm not in self._digests.by:
            self._algorithms.add(algorithm)
            self._digests = _Digests(self._algorithms)
        while self._digests.upto < self._status.offset:
            wanted = min(_CHUNK, self._status.offset - self._digests.upto)
            try:
                data = os.pread(self._fd, wanted, self._digests.upto)
            except OSError as error:
                raise explain(error, f"cannot read ingest {self._status.ref!r}") from error
            if not data:
                raise Aborted(f"ingest {self._status.ref!r} was cut short by somebody else")
            self._digests.add(data)
        return f"{algorithm}:{self._digests.by[algorithm].hexdigest()}"

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
            actual = self._catch_up(digest.partition(":")[0] or "sha256")
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
