"""Blobs in local files.

::

    blobs/sha256/HEX            a committed blob; a name is there only when its content is whole and durable
    blobs/sha512/HEX
    ingest/SHA256-OF-REF/state  what is known of an ingest, as JSON
    ingest/SHA256-OF-REF/data   its bytes so far
    ingest/SHA256-OF-REF/marks  how far each write came, see ingest.py
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio.lowlevel
import anyio.to_thread

from orlopd.plugin.errors import AlreadyExists, InvalidArgument, NotFound, OrlopError, Unavailable
from orlopd.plugin.files import explain, remove_tree, sync_folder
from orlopd.plugin.values import BlobInfo, IngestStatus, check_digest, now

from .ingest import LocalIngest

_REF_LIMIT = 4096
_BATCH = 256
_MANY = 32
"""From how many blobs on it is worth a process to delete them."""
_RM_SECONDS = 60
_SMALL = 32 << 10


class LocalReader:
    """One open blob."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._size = os.fstat(fd).st_size
        # A manifest or config is read whole: with it at hand, no further visit to a thread is needed.
        self._all = os.pread(fd, self._size, 0) if self._size <= _SMALL else None

    @property
    def size(self) -> int:
        return self._size

    @property
    def path(self) -> str | None:
        return str(self._path)

    async def read_at(self, offset: int, size: int) -> bytes:
        if offset >= self._size or size <= 0:
            return b""
        if self._all is not None:
            await anyio.lowlevel.checkpoint()
            return self._all[offset : offset + size]
        with _explained(f"cannot read blob {self._path.name}"):
            return await anyio.to_thread.run_sync(os.pread, self._fd, size, offset)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class LocalStore:
    """A content store of local files. Implements :class:`orlopd.plugin.content.BulkContentStore`."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._ingests = root / "ingest"
        self._open: dict[str, LocalIngest | None] = {}

    @classmethod
    async def at(cls, root: Path) -> LocalStore:
        """Open (or make) the store in ``root``."""
        store = cls(root)

        def prepare() -> None:
            for path in (store._blobs, store._blobs / "sha256", store._blobs / "sha512", store._ingests):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Also the names that an earlier process gave and did not live to make durable.
            for path in (root, store._blobs, store._blobs / "sha256", store._blobs / "sha512"):
                sync_folder(path)
            for folder in list(store._ingests.iterdir()):
                if _read_state(folder) is None:  # a crash while it was made or forgotten
                    remove_tree(folder)

        with _explained(f"cannot open the content store in {str(root)!r}"):
            await anyio.to_thread.run_sync(prepare)
        return store

    async def info(self, digest: str) -> BlobInfo:
        path = self._blob(digest)
        return await anyio.to_thread.run_sync(_info, path, digest)

    async def blobs(self) -> AsyncIterator[BlobInfo]:
        def found() -> Iterator[BlobInfo]:
            for algorithm in ("sha256", "sha512"):
                with os.scandir(self._blobs / algorithm) as entries:
                    for entry in entries:
                        with contextlib.suppress(NotFound, InvalidArgument):
                            digest = check_digest(f"{algorithm}:{entry.name}")
                            yield _info(Path(entry.path), digest)

        def batch(source: Iterator[BlobInfo]) -> list[BlobInfo]:
            return [info for _, info in zip(range(_BATCH), source, strict=False)]

        source = found()
        while infos := await self._listed(batch, source):
            for info in infos:
                yield info

    @staticmethod
    async def _listed(
        job: Callable[[Iterator[BlobInfo]], list[BlobInfo]], source: Iterator[BlobInfo]
    ) -> list[BlobInfo]:
        with _explained("cannot list the blobs"):
            return await anyio.to_thread.run_sync(job, source)

    async def open(self, digest: str) -> LocalReader:
        path = self._blob(digest)

        def job() -> LocalReader:
            try:
                return LocalReader(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
            except FileNotFoundError as error:
                raise _no_blob(digest) from error

        with _explained(f"cannot open blob {digest}"):
            return await anyio.to_thread.run_sync(job)

    async def delete(self, digest: str) -> None:
        for error in (await self.delete_many([digest])).values():
            raise error

    async def delete_many(self, digests: Sequence[str]) -> Mapping[str, OrlopError]:
        paths = {digest: self._blob(digest) for digest in digests}
        return await anyio.to_thread.run_sync(_delete, paths)

    async def ingest(self, ref: str, *, total: int = 0, expected: str = "") -> LocalIngest:
        if not ref or len(ref) > _REF_LIMIT:
            raise InvalidArgument(f"an ingest's ref has 1 to {_REF_LIMIT} characters, this one {len(ref)}")
        if expected:
            check_digest(expected)
        if ref in self._open:
            raise Unavailable(
                f"ingest {ref!r} is being written by another client",
                reason="INGEST_LOCKED",
                resource=f"ingest {ref}",
                hint="wait for it to end",
            )
        self._open[ref] = None
        try:
            with _explained(f"cannot open ingest {ref!r}"):
                ingest = await anyio.to_thread.run_sync(self._open_ingest, ref, total, expected)
            try:
                await ingest.recover()
            except BaseException:
                ingest.close()
                raise
        except BaseException:
            self._open.pop(ref, None)
            raise
        self._open[ref] = ingest
        return ingest

    async def status(self, ref: str) -> IngestStatus:
        if (writer := self._open.get(ref)) is not None:
            return writer.status
        return await anyio.to_thread.run_sync(self._status, ref)

    async def ingests(self) -> AsyncIterator[IngestStatus]:
        def refs() -> list[IngestStatus]:
            found = (_read_status(folder) for folder in self._ingests.iterdir())
            return [status for status in found if status is not None]

        with _explained("cannot list the ingests"):
            statuses = await anyio.to_thread.run_sync(refs)
        for status in statuses:
            writer = self._open.get(status.ref)
            yield writer.status if writer is not None else status

    async def abort(self, ref: str) -> None:
        folder = self._folder(ref)

        def job() -> None:
            if not (folder / "state").exists():
                raise _no_ingest(ref)
            (folder / "state").unlink()  # from here on the rest is swept at the next start
            remove_tree(folder)

        writer = self._open.get(ref)
        with _explained(f"cannot abort ingest {ref!r}"):
            await anyio.to_thread.run_sync(job)
        if writer is not None:
            writer.forget()
            self._closed(writer)

    def _open_ingest(self, ref: str, total: int, expected: str) -> LocalIngest:
        if expected and self._blob(expected).exists():
            raise AlreadyExists(f"blob {expected} is there already", resource=f"blob {expected}")
        folder = self._folder(ref)
        status = _read_status(folder)
        if status is None:
            remove_tree(folder)
            at = now()
            status = IngestStatus(ref, 0, total, expected, at, at)
            try:
                _make_folder(folder, status)
            except OSError:
                with contextlib.suppress(OSError):
                    remove_tree(folder)
                raise
        elif (total and not status.total) or (expected and not status.expected):
            status = IngestStatus(
                *(ref, status.offset, total or status.total, expected or status.expected),
                *(status.started_at, status.updated_at),
            )
        return LocalIngest(folder, status, self._blob, self._closed)

    def _closed(self, writer: LocalIngest) -> None:
        ref = writer.status.ref
        if self._open.get(ref) is writer:
            del self._open[ref]

    def _status(self, ref: str) -> IngestStatus:
        status = _read_status(self._folder(ref))
        if status is None:
            raise _no_ingest(ref)
        return status

    def _blob(self, digest: str) -> Path:
        algorithm, _, name = check_digest(digest).partition(":")
        return self._blobs / algorithm / name

    def _folder(self, ref: str) -> Path:
        return self._ingests / hashlib.sha256(ref.encode("utf-8", "surrogatepass")).hexdigest()


def _delete(paths: Mapping[str, Path]) -> dict[str, OrlopError]:
    """Delete blobs, with one sync of each folder for all of them; what could not be deleted, and why."""
    refused: dict[str, OrlopError] = {}
    for folder in {path.parent for path in paths.values()}:
        names = {path.name: digest for digest, path in paths.items() if path.parent == folder}
        removed = _remove_many(folder, names) if len(names) >= _MANY else ()
        for name in names.keys() - set(removed):
            try:
                (folder / name).unlink()
            except FileNotFoundError:
                refused[names[name]] = _no_blob(names[name])
            except OSError as error:
                refused[names[name]] = explain(error, f"cannot delete blob {names[name]}")
        # Also for those that were gone already: whoever deleted them may not have come to this line.
        try:
            sync_folder(folder)
        except OSError as error:
            for digest in names.values():
                refused[digest] = explain(error, f"cannot delete blob {digest} for good")
    return refused


def _remove_many(folder: Path, names: Iterable[str]) -> list[str]:
    """Have rm(1) remove files of a folder; which it did.

    Here, each would wait its turn among the interpreter's threads, for milliseconds if they are busy: the
    time of most of a large collection.
    """
    try:
        done = subprocess.run(
            ["rm", "-v", "--", *names],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=_RM_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return []  # what is left is removed one by one
    return re.findall(r"^removed '(.*)'$", done.stdout, re.MULTILINE)


def _make_folder(folder: Path, status: IngestStatus) -> None:
    folder.mkdir(mode=0o700)
    started = status.started_at.isoformat()
    state = {"ref": status.ref, "total": status.total, "expected": status.expected, "started": started}
    part = folder / "state.part"
    part.touch(mode=0o600)
    part.write_text(json.dumps(state))
    (folder / "data").touch(mode=0o600)
    part.rename(folder / "state")


def _info(path: Path, digest: str) -> BlobInfo:
    try:
        info = path.lstat()
    except FileNotFoundError as error:
        raise _no_blob(digest) from error
    except OSError as error:
        raise explain(error, f"cannot look at blob {digest}") from error
    at = datetime.fromtimestamp(info.st_mtime, UTC)
    return BlobInfo(digest, info.st_size, at, at)


def _read_state(folder: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((folder / "state").read_bytes())
        datetime.fromisoformat(state["started"])
        (folder / "data").lstat()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state


def _read_status(folder: Path) -> IngestStatus | None:
    state = _read_state(folder)
    if state is None:
        return None
    try:
        data = (folder / "data").lstat()
    except FileNotFoundError:
        return None
    return IngestStatus(
        ref=state["ref"],
        offset=data.st_size,
        total=state["total"],
        expected=state["expected"],
        started_at=datetime.fromisoformat(state["started"]),
        updated_at=datetime.fromtimestamp(data.st_mtime, UTC),
    )


def _no_blob(digest: str) -> NotFound:
    return NotFound(f"blob {digest} does not exist", resource=f"blob {digest}")


def _no_ingest(ref: str) -> NotFound:
    return NotFound(f"ingest {ref!r} does not exist", resource=f"ingest {ref}")


@contextmanager
def _explained(tried: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain(error, tried) from error
