"""The contract of a content store: blobs named by digest, and ingests on their way in.

A store knows neither namespaces nor labels; the core adds both. A store keeps what it committed
until it is told to delete it, and an ingest until it is committed or aborted, over any crash.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from .errors import OrlopError
from .values import BlobInfo, IngestStatus


class BlobReader(Protocol):
    """Random access to one committed blob; an async context manager."""

    @property
    def size(self) -> int:
        """The blob's size in bytes."""
        ...

    @property
    def path(self) -> str | None:
        """A local file that holds exactly the blob and may be opened by this machine's root for
        reading, or None when the store has no such file."""
        ...

    async def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; fewer only at the end, empty past it."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class ArrivingBlob(BlobReader, Protocol):
    """A blob that is still being written to a local file, and is read meanwhile.

    ``size`` is what it will have in the end, ``path`` None. Nobody vouches yet for what is there: whoever
    uses it keeps nothing of what it made of it until the host says that the blob is whole.
    """

    def fileno(self) -> int:
        """A descriptor of the file, for opening it anew; it stays open as long as this object is held."""
        ...

    async def wait(self, beyond: int) -> int:
        """Wait until there are more than ``beyond`` bytes, or all; how many there are.

        :raises Aborted: what came so far was dropped
        """
        ...


class Ingest(Protocol):
    """The one open writer of a ref; an async context manager. Leaving it keeps what was written."""

    @property
    def status(self) -> IngestStatus:
        """Where the ingest stands."""
        ...

    async def write(self, data: bytes) -> None:
        """Append ``data``.

        :raises ResourceExhausted: the disk is full; what was written before stays
        """
        ...

    async def truncate(self, offset: int) -> None:
        """Drop everything from ``offset`` on.

        :raises OutOfRange: ``offset`` is beyond the end
        """
        ...

    async def digest(self) -> str:
        """The sha256 digest of what was written so far."""
        ...

    async def commit(self, size: int = 0, digest: str = "") -> BlobInfo:
        """Make the blob durable under its digest; the ingest is gone then.

        :param size: the expected size; 0 is any
        :param digest: the expected digest; empty for sha256 of what came
        :raises FailedPrecondition: size or digest differ; the ingest stays
        :raises AlreadyExists: the blob is there; the ingest is gone all the same
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class FileIngest(Ingest, Protocol):
    """An ingest whose bytes are in a local file as they come, which is not asked of every store."""

    @property
    def path(self) -> str:
        """The file, from its beginning up to ``status.offset``; another name may be its after the commit."""
        ...


class ContentStore(Protocol):
    """Blobs by digest."""

    async def info(self, digest: str) -> BlobInfo:
        """:raises NotFound: no such blob"""
        ...

    def blobs(self) -> AsyncIterator[BlobInfo]:
        """Every committed blob, in no order."""
        ...

    async def open(self, digest: str) -> BlobReader:
        """:raises NotFound: no such blob"""
        ...

    async def delete(self, digest: str) -> None:
        """Delete a blob for good: it is not back after a power cut. Readers that are open go on.

        :raises NotFound: no such blob
        """
        ...

    async def ingest(self, ref: str, *, total: int = 0, expected: str = "") -> Ingest:
        """Open the ingest of ``ref``, a new one or where the last writer left it.

        :param ref: any string up to 4096 characters; never used as a path as it is
        :param total: the size to come; 0 when not known
        :param expected: the digest to come; empty when not known
        :raises Unavailable: another writer has this ref open
        :raises AlreadyExists: ``expected`` is committed already
        """
        ...

    async def status(self, ref: str) -> IngestStatus:
        """:raises NotFound: no such ingest"""
        ...

    def ingests(self) -> AsyncIterator[IngestStatus]:
        """Every ingest, open or left, in no order."""
        ...

    async def abort(self, ref: str) -> None:
        """Forget an ingest and its bytes. :raises NotFound: no such ingest"""
        ...


@runtime_checkable
class BulkContentStore(ContentStore, Protocol):
    """A store that deletes many blobs faster than one by one, which is not asked of every one."""

    async def delete_many(self, digests: Sequence[str]) -> Mapping[str, OrlopError]:
        """As ``delete`` for each, for good when this returns.

        :returns: why a blob was not deleted, for each that was not: NotFound where there was none
        """
        ...
