"""The differ itself: media types, and getting blobs to workers and archives from them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import anyio

from orlopd.plugin.content import ArrivingBlob, BlobReader, Ingest
from orlopd.plugin.diff import Progress
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, OrlopError
from orlopd.plugin.values import Descriptor, Mount, check_digest

from .jobs import AnyJob, ApplyJob, DiffJob, Outcome
from .limits import Limits
from .owners import NAMED, Owners
from .pool import WorkerPool

UNCOMPRESSED = "application/vnd.oci.image.layer.v1.tar"
_MEDIA_TYPE = re.compile(
    r"application/vnd\.oci\.image\.layer(?:\.nondistributable)?\.v1\.tar(?:\+(?P<oci>gzip|zstd))?"
    r"|application/vnd\.docker\.image\.rootfs(?:\.foreign)?\.diff\.tar(?:\.(?P<docker>gzip|zstd))?"
)
_PIPE = 1 << 20
_READ = 1 << 20


class TarDiffer:
    """Applies and writes tar layers. Implements :class:`orlopd.plugin.diff.Differ`.

    :param pool: who does it
    :param scratch: an empty directory that workers mount on, each in a namespace of its own
    """

    def __init__(self, pool: WorkerPool, scratch: Path, limits: Limits) -> None:
        self._pool = pool
        self._scratch = str(scratch)
        self._limits = limits

    def handles(self, media_type: str) -> bool:
        return handles(media_type)

    async def apply(
        self,
        layer: Descriptor,
        blob: BlobReader,
        mounts: Sequence[Mount],
        *,
        progress: Progress | None = None,
    ) -> Descriptor:
        digest = check_layer(layer, blob)
        outcome = await self._apply(blob, mounts, digest, whiteouts=True, progress=progress)
        return Descriptor(UNCOMPRESSED, outcome.digest, outcome.size)

    async def unpack_tar(
        self, blob: BlobReader, mounts: Sequence[Mount], *, uids: str = "", gids: str = ""
    ) -> int:
        owners = Owners(uids, gids)
        outcome = await self._apply(blob, mounts, "", whiteouts=False, progress=None, owners=owners)
        return outcome.written

    async def diff(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str,
        sink: Ingest,
        *,
        newest: int | None = None,
    ) -> str:
        match = _MEDIA_TYPE.fullmatch(media_type or UNCOMPRESSED)
        if match is None:
            raise InvalidArgument(f"cannot write layers of media type {media_type!r}")
        compression = match["oci"] or match["docker"] or ""
        job = DiffJob(tuple(lower), tuple(upper), self._scratch, compression, newest)
        reading, writing = _pipe()
        outcomes: list[Outcome] = []
        failures: list[OrlopError] = []

        async def work() -> None:
            try:
                outcomes.append(await self._pool.run(job, [writing.fileno()]))
            except OrlopError as error:
                failures.append(error)
            finally:
                writing.close()  # the last copy: reading ends

        with reading, writing:
            os.set_blocking(reading.fileno(), False)
            async with anyio.create_task_group() as group:
                group.start_soon(work)
                try:
                    while data := await _read(reading.fileno()):
                        await sink.write(data)
                except OrlopError as error:
                    failures.insert(0, error)
                    group.cancel_scope.cancel()
        if failures:
            raise failures[0]
        return outcomes[0].digest

    async def aclose(self) -> None:
        """End the workers."""
        await self._pool.aclose()

    async def _apply(
        self,
        blob: BlobReader,
        mounts: Sequence[Mount],
        digest: str,
        *,
        whiteouts: bool,
        progress: Progress | None,
        owners: Owners = NAMED,
    ) -> Outcome:
        job = ApplyJob(
            tuple(mounts),
            self._scratch,
            blob.path or "",
            digest,
            whiteouts,
            arriving_size(blob),
            self._limits,
            owners.uids,
            owners.gids,
        )
        return await fed(self._pool, job, blob, progress=progress)


def handles(media_type: str) -> bool:
    """Whether it is that of a tar layer."""
    return _MEDIA_TYPE.fullmatch(media_type) is not None


def check_layer(layer: Descriptor, blob: BlobReader) -> str:
    """The digest of a layer, if it is known. :raises FailedPrecondition: its blob is of another size"""
    digest = check_digest(layer.digest) if layer.digest else ""
    if layer.size and blob.size != layer.size:
        raise FailedPrecondition(
            f"layer {digest} has {blob.size} bytes, its descriptor says {layer.size}",
            reason="SIZE_MISMATCH",
            resource=f"blob {digest}",
        )
    return digest


def arriving_size(blob: BlobReader) -> int:
    """What a job has to say of a blob that still arrives; 0 of any other."""
    return blob.size if isinstance(blob, ArrivingBlob) else 0


async def fed(
    pool: WorkerPool,
    job: AnyJob,
    blob: BlobReader,
    fds: Sequence[int] = (),
    *,
    progress: Progress | None = None,
) -> Outcome:
    """Do a job that reads a blob. Raises as :meth:`.pool.WorkerPool.run`, and as reading the blob does.

    :param job: it has the blob's path; where there is none, the last descriptor sent along is a pipe with it
    """
    if blob.path is not None:
        return await pool.run(job, fds, weight=blob.size, progress=progress)
    if isinstance(blob, ArrivingBlob):
        return await pool.run(job, [*fds, blob.fileno()], weight=blob.size, progress=progress, arriving=blob)
    # No file to open: what the store gives goes through a pipe.
    reading, writing = _pipe()
    outcomes: list[Outcome] = []
    failures: list[OrlopError] = []

    async def feed() -> None:
        offset = 0
        os.set_blocking(writing.fileno(), False)
        try:
            with writing:
                while data := await blob.read_at(offset, _READ):
                    offset += len(data)
                    await _write(writing.fileno(), data)
        except BrokenPipeError:
            pass  # the worker stopped reading, and says why
        except OrlopError as error:
            failures.append(error)
            group.cancel_scope.cancel()

    with reading, writing:
        async with anyio.create_task_group() as group:
            group.start_soon(feed)
            try:
                outcome = await pool.run(job, [*fds, reading.fileno()], weight=blob.size, progress=progress)
                outcomes.append(outcome)
            except OrlopError as error:
                failures.append(error)
            group.cancel_scope.cancel()
    if failures:
        raise failures[0]
    return outcomes[0]


class _End:
    """One end of a pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.close()


def _pipe() -> tuple[_End, _End]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    return _End(reading), _End(writing)


async def _read(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, _PIPE)
        except BlockingIOError:
            await anyio.wait_readable(fd)


async def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await anyio.wait_writable(fd)
