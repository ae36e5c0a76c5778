"""The check of content: is every blob there, of its size, and what its digest says?"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from orlopd.plugin.content import BlobReader, ContentStore
from orlopd.plugin.errors import NotFound, OrlopError

from . import graph
from .checks import Finding, Totals
from .db import Connection, Database
from .gc import Collector
from .shield import shielded

_PAGE = 500
_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class _Blob:
    digest: str
    sizes: frozenset[int]
    namespaces: tuple[str, ...]


class BlobCheck:
    """Goes through the content of all namespaces, then through that of the store."""

    def __init__(
        self, db: Database, store: ContentStore, gc: Collector, quarantine: Path, totals: Totals
    ) -> None:
        self._db = db
        self._store = store
        self._gc = gc
        self._quarantine = quarantine
        self._totals = totals

    async def run(self, repair: bool, quick: bool) -> AsyncIterator[Finding | None]:
        """Findings; None now and then where there is nothing to say."""
        count, size = await self._db.read(_totals)
        self._totals.blobs_total, self._totals.bytes_total = count, 0 if quick else size
        after = ""
        while page := await self._db.read(lambda conn, after=after: _page(conn, after)):
            for blob in page:
                async for item in self._check(blob, repair, quick):
                    yield item
                self._totals.blobs += 1
                yield None
            after = page[-1].digest
        async for item in self._unknown(repair):
            yield item

    async def _check(self, blob: _Blob, repair: bool, quick: bool) -> AsyncIterator[Finding | None]:
        try:
            found = await self._store.info(blob.digest)
        except NotFound:
            if await self._is_known(blob.digest):
                yield await self._missing(blob, repair)
            return
        if not quick:
            try:
                async for actual in self._hash(blob.digest):
                    if actual is None:
                        yield None
                    elif actual != blob.digest:
                        yield await self._corrupt(blob, actual, repair)
                        return
            except NotFound:
                return  # removed meanwhile
            except (OSError, OrlopError) as error:
                why = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
                hint = "look at the disk's health; remove the images that use it and pull them again"
                yield _finding("BLOB_UNREADABLE", blob, f"it cannot be read: {why}", hint=hint)
                return
        if blob.sizes != frozenset((found.size,)):
            if quick:
                hint = "check it without --quick: it is damaged, or the record is"
                message = f"it has {found.size} bytes, recorded are {_list(blob.sizes)}"
                yield _finding("BLOB_SIZE", blob, message, hint=hint)
            else:
                yield await self._mismeasured(blob, found.size, repair)

    async def _hash(self, digest: str) -> AsyncIterator[str | None]:
        """The digest of what is there, at the end; None after each part."""
        hasher = hashlib.new(digest.partition(":")[0])
        async with await self._store.open(digest) as reader:
            offset = 0
            while chunk := await reader.read_at(offset, _CHUNK):
                await to_thread.run_sync(hasher.update, chunk)
                offset += len(chunk)
                self._totals.bytes += len(chunk)
                yield None
        yield f"{hasher.name}:{hasher.hexdigest()}"

    async def _missing(self, blob: _Blob, repair: bool) -> Finding:
        repaired = ""
        if repair:
            async with self._gc.blobs.hold(blob.digest):
                try:
                    await self._store.info(blob.digest)
                except NotFound:
                    await self._forget(blob.digest)
                    repaired = "forgotten, so that the next pull fetches it"
        return _finding("BLOB_MISSING", blob, "it is recorded but not in the store", repaired)

    async def _mismeasured(self, blob: _Blob, size: int, repair: bool) -> Finding:
        if repair:
            await self._db.write(
                lambda conn: conn.execute(
                    "UPDATE contents SET size = ? WHERE digest = ?", (size, blob.digest)
                )
            )
        message = f"it is sound and has {size} bytes, but recorded are {_list(blob.sizes)}"
        return _finding("BLOB_SIZE", blob, message, f"recorded {size} bytes" if repair else "")

    async def _corrupt(self, blob: _Blob, actual: str, repair: bool) -> Finding:
        repaired = ""
        if repair:
            async with self._gc.blobs.hold(blob.digest):
                place = await self._put_away(blob.digest)
                # Forgotten first: whoever asks between is told that it is not there, which it soon is.
                with shielded():
                    await self._forget(blob.digest)
                    with suppress(NotFound):
                        await self._store.delete(blob.digest)
            repaired = f"moved to {place}; the next pull fetches it again"
        return _finding("BLOB_CORRUPT", blob, f"its bytes have the digest {actual}", repaired)

    async def _forget(self, digest: str) -> None:
        """Forget a blob in every namespace, but not what it refers to: that is needed when it comes back."""

        def change(conn: Connection) -> None:
            conn.execute("DELETE FROM contents WHERE digest = ?", (digest,))
            graph.discard(conn, graph.CONTENT_STORE, digest)

        await self._db.write(change)

    async def _put_away(self, digest: str) -> Path:
        target = self._quarantine / digest.replace(":", "-")
        async with await self._store.open(digest) as reader:
            if not await to_thread.run_sync(_link, reader.path, target):
                await _copy(reader, target)
        return target

    async def _is_known(self, digest: str) -> bool:
        return bool(
            await self._db.read(
                lambda conn: conn.execute("SELECT 1 FROM contents WHERE digest = ?", (digest,)).fetchone()
            )
        )

    async def _unknown(self, repair: bool) -> AsyncIterator[Finding | None]:
        batch: dict[str, int] = {}
        async for info in self._store.blobs():
            batch[info.digest] = info.size
            if len(batch) == _PAGE:
                for item in await self._unknown_of(batch, repair):
                    yield item
                batch = {}
                yield None
        for item in await self._unknown_of(batch, repair):
            yield item

    async def _unknown_of(self, batch: dict[str, int], repair: bool) -> list[Finding]:
        found: list[Finding] = []
        unknown = await self._db.read(lambda conn: _nobodys(conn, list(batch)))
        for digest in unknown:
            # A commit has its blob in the store a moment before its row, under this lock.
            async with self._gc.blobs.hold(digest):
                if not await self._db.read(lambda conn, digest=digest: _nobodys(conn, [digest])):
                    continue
                if repair:
                    size = batch[digest]
                    await self._db.write(
                        lambda conn, d=digest, s=size: graph.discard(conn, graph.CONTENT_STORE, d, s)
                    )
            repaired = "left to the next collection" if repair else ""
            blob = _Blob(digest, frozenset(), ())
            found.append(_finding("BLOB_UNKNOWN", blob, "it is in the store but no namespace's", repaired))
        return found


def _finding(code: str, blob: _Blob, message: str, repaired: str = "", hint: str = "") -> Finding:
    hint = "" if repaired else hint or "mend it with --repair"
    return Finding(code, ", ".join(blob.namespaces), f"blob {blob.digest}", message, repaired, hint)


def _list(sizes: frozenset[int]) -> str:
    return " and ".join(map(str, sorted(sizes)))


def _totals(conn: Connection) -> tuple[int, int]:
    row = conn.execute(
        "SELECT count(*), coalesce(sum(size), 0) "
        "FROM (SELECT max(size) AS size FROM contents GROUP BY digest)"
    ).fetchone()
    return int(row[0]), int(row[1])


def _page(conn: Connection, after: str) -> list[_Blob]:
    rows = conn.execute(
        "SELECT digest, json_group_array(size), json_group_array(namespace) FROM contents WHERE digest > ? "
        "GROUP BY digest ORDER BY digest LIMIT ?",
        (after, _PAGE),
    )
    return [_Blob(row[0], frozenset(json.loads(row[1])), tuple(json.loads(row[2]))) for row in rows]


def _nobodys(conn: Connection, digests: list[str]) -> list[str]:
    rows = conn.execute(
        """
        SELECT value FROM json_each(?)
        WHERE NOT EXISTS (SELECT 1 FROM contents WHERE digest = value)
        AND NOT EXISTS (SELECT 1 FROM ingests WHERE expected = value)
        AND NOT EXISTS (SELECT 1 FROM garbage WHERE store = ? AND item = value)
        """,
        (json.dumps(digests), graph.CONTENT_STORE),
    )
    return [row[0] for row in rows]


def _link(source: str | None, target: Path) -> bool:
    target.parent.mkdir(mode=0o700, exist_ok=True)
    target.unlink(missing_ok=True)
    if source is None:
        return False
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in {errno.EXDEV, errno.EPERM, errno.EMLINK}:
            return False
        raise
    return True


async def _copy(reader: BlobReader, target: Path) -> None:
    fd = await to_thread.run_sync(os.open, target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        offset = 0
        while chunk := await reader.read_at(offset, _CHUNK):
            offset += await to_thread.run_sync(os.write, fd, chunk)
        await to_thread.run_sync(os.fsync, fd)
    finally:
        os.close(fd)
