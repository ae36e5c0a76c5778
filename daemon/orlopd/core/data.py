"""The data half of a collection: deletes from the stores what has lost its metadata."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from dataclasses import dataclass

import anyio

from orlopd.plugin.content import BulkContentStore, ContentStore
from orlopd.plugin.errors import FailedPrecondition, NotFound, OrlopError
from orlopd.plugin.snapshots import Snapshotter

from . import graph
from .db import Connection, Database
from .locks import KeyedLocks

log = logging.getLogger("orlopd.gc")

_BATCH = 4000
"""Notes that are worked off together, so that many do not wait for the disk one by one."""

_UNKNOWN = {
    graph.CONTENT_STORE: """
        SELECT value FROM json_each(?)
        WHERE NOT EXISTS (SELECT 1 FROM contents WHERE digest = value)
        AND NOT EXISTS (SELECT 1 FROM ingests WHERE expected = value)
    """,
    graph.INGEST_STORE: """
        SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM ingests WHERE backend_ref = value)
    """,
}
_UNKNOWN_SNAPSHOTS = """
    SELECT value FROM json_each(?)
    WHERE NOT EXISTS (SELECT 1 FROM snapshots WHERE snapshotter = ? AND backend_key = value)
    AND NOT EXISTS (SELECT 1 FROM snapshot_commits WHERE snapshotter = ? AND backend_name = value)
"""


@dataclass(frozen=True, slots=True)
class _Note:
    id: int
    item: str
    size: int


class DataRemover:
    """Works off the notes of what is to be deleted."""

    def __init__(
        self,
        db: Database,
        content: ContentStore,
        snapshotters: Mapping[str, Snapshotter],
        blobs: KeyedLocks,
        unrecorded: Set[tuple[str, str]],
    ) -> None:
        self._db = db
        self._content = content
        self._snapshotters = snapshotters
        self._blobs = blobs
        self._unrecorded = unrecorded
        self._looked_for_orphans = False

    async def remove(self) -> tuple[int, int]:
        """Delete all that is noted; how many blobs, ingests and snapshots went, and the blobs' bytes.

        What a store refuses stays noted for the next time.
        """
        if not self._looked_for_orphans:
            self._looked_for_orphans = await self._note_orphans()
        deleted = freed = 0

        async def blobs() -> None:
            nonlocal deleted, freed
            count, size = await self._remove_blobs()
            deleted, freed = deleted + count, freed + size

        async def ingests() -> None:
            nonlocal deleted
            count = await self._remove_ingests()
            deleted += count  # read after the wait: the others count as well

        async def snapshots(name: str, snapshotter: Snapshotter) -> None:
            nonlocal deleted
            count = await self._remove_snapshots(name, snapshotter)
            deleted += count

        async with anyio.create_task_group() as group:
            group.start_soon(blobs)
            group.start_soon(ingests)
            for name, snapshotter in self._snapshotters.items():
                group.start_soon(snapshots, name, snapshotter)
        return deleted, freed

    async def _remove_blobs(self) -> tuple[int, int]:
        deleted = freed = 0
        async for batch in self._batches(graph.CONTENT_STORE):
            digests = [note.item for note in batch]
            async with self._blobs.hold(*digests):
                unknown = await self._unknown(graph.CONTENT_STORE, digests)
                refused = await self._delete([digest for digest in digests if digest in unknown])
            done: list[_Note] = []
            for note in batch:
                error = refused.get(note.item)
                if error is not None and not isinstance(error, NotFound):
                    log.warning("cannot delete blob %s, will try again: %s", note.item, error)
                    continue
                if note.item in unknown and error is None:
                    deleted, freed = deleted + 1, freed + note.size
                done.append(note)
            # Only now: what is struck off is gone for good.
            await self._strike_off(done)
        return deleted, freed

    async def _delete(self, digests: Sequence[str]) -> Mapping[str, OrlopError]:
        """Delete blobs; why each that was not was not."""
        if not digests:
            return {}
        try:
            if isinstance(self._content, BulkContentStore):
                return await self._content.delete_many(digests)
        except OrlopError as error:
            return dict.fromkeys(digests, error)
        refused: dict[str, OrlopError] = {}
        for digest in digests:
            try:
                await self._content.delete(digest)
            except OrlopError as error:
                refused[digest] = error
        return refused

    async def _remove_ingests(self) -> int:
        deleted = 0
        async for batch in self._batches(graph.INGEST_STORE):
            done: list[_Note] = []
            for note in batch:
                try:
                    await self._content.abort(note.item)
                    deleted += 1
                except NotFound:
                    pass
                except OrlopError as error:
                    log.warning("cannot abort ingest %s, will try again: %s", note.item, error)
                    continue
                done.append(note)
            await self._strike_off(done)
        return deleted

    async def _remove_snapshots(self, name: str, snapshotter: Snapshotter) -> int:
        deleted = 0
        store = graph.snapshot_store(name)
        notes = await self._notes(store)
        if not notes:
            return 0
        unknown = await self._unknown(store, [note.item for note in notes])
        await self._strike_off([note for note in notes if note.item not in unknown])
        # Numbers grow, so children come before the parents they were made on.
        rest = sorted((note for note in notes if note.item in unknown), key=_sequence, reverse=True)
        refusal: OrlopError | None = None
        while rest:
            done, left = list[_Note](), list[_Note]()
            for note in rest:
                try:
                    await snapshotter.remove(note.item)
                    deleted += 1
                except NotFound:
                    pass
                except FailedPrecondition as error:
                    left.append(note)
                    refusal = error
                    continue
                except OrlopError as error:
                    log.warning("cannot remove %s snapshot %s, will try again: %s", name, note.item, error)
                    continue
                done.append(note)
            await self._strike_off(done)
            rest = left
            if not done:
                break
        for note in rest:
            log.warning("cannot remove %s snapshot %s, will try again: %s", name, note.item, refusal)
        if deleted:
            try:
                await snapshotter.cleanup()
            except OrlopError as error:
                log.warning("snapshotter %s could not clean up: %s", name, error)
        return deleted

    async def _note_orphans(self) -> bool:
        """Note what the stores have and no metadata knows; whether all of them could be looked through."""
        whole = True
        try:
            batch: dict[str, int] = {}
            async for blob in self._content.blobs():
                batch[blob.digest] = blob.size
                if len(batch) == _BATCH:
                    await self._note_unknown(graph.CONTENT_STORE, batch)
                    batch = {}
            await self._note_unknown(graph.CONTENT_STORE, batch)
            refs = {ingest.ref: ingest.offset async for ingest in self._content.ingests()}
            await self._note_unknown(graph.INGEST_STORE, refs)
        except OrlopError as error:
            log.warning("cannot look for content that nobody knows, will try again: %s", error)
            whole = False
        for name, snapshotter in self._snapshotters.items():
            try:
                keys = {info.name: 0 async for info in snapshotter.walk()}
                await self._note_unknown(graph.snapshot_store(name), keys)
                # And what it was deleting, which it alone knows of.
                await snapshotter.cleanup()
            except OrlopError as error:
                log.warning("cannot look for %s snapshots that nobody knows, will try again: %s", name, error)
                whole = False
        return whole

    async def _note_unknown(self, store: str, sizes: Mapping[str, int]) -> None:
        unknown = await self._unknown(store, list(sizes))
        if unknown:
            log.info("found data without metadata: %d of store %s", len(unknown), store)

            notes = [(store, item, sizes[item]) for item in unknown]
            await self._db.write(lambda conn: graph.discard_all(conn, notes))

    async def _unknown(self, store: str, items: Sequence[str]) -> set[str]:
        if not items:
            return set()
        kind, _, snapshotter = store.partition("/")
        # Looked at before the database: what is not being made any more has its row by then.
        making = (
            {key for name, key in self._unrecorded if name == snapshotter}
            if kind == "snapshot"
            else set[str]()
        )

        def query(conn: Connection) -> set[str]:
            text = json.dumps(items)
            if kind == "snapshot":
                rows = conn.execute(_UNKNOWN_SNAPSHOTS, (text, snapshotter, snapshotter))
            else:
                rows = conn.execute(_UNKNOWN[store], (text,))
            return {row[0] for row in rows}

        return await self._db.read(query) - making

    async def _notes(self, store: str) -> list[_Note]:
        return [note async for batch in self._batches(store) for note in batch]

    async def _batches(self, store: str) -> AsyncIterator[list[_Note]]:
        """The notes that there are now, many at a time; none twice, though it may not be struck off."""
        after, last = 0, await self._db.read(_last_note)
        while after < last:
            rows = await self._db.read(
                lambda conn, after=after: conn.execute(
                    "SELECT id, item, size FROM garbage WHERE store = ? AND id > ? AND id <= ? "
                    "ORDER BY id LIMIT ?",
                    (store, after, last, _BATCH),
                ).fetchall()
            )
            if not rows:
                return
            yield [_Note(*row) for row in rows]
            after = rows[-1][0]

    async def _strike_off(self, notes: Sequence[_Note]) -> None:
        if notes:
            ids = json.dumps([note.id for note in notes])
            await self._db.write(
                lambda conn: conn.execute(
                    "DELETE FROM garbage WHERE id IN (SELECT value FROM json_each(?))", (ids,)
                )
            )


def _last_note(conn: Connection) -> int:
    return int(conn.execute("SELECT coalesce(max(id), 0) FROM garbage").fetchone()[0])


def _sequence(note: _Note) -> int:
    _, _, rest = note.item.partition("/")
    number = rest.partition("/")[0]
    return int(number) if number.isdecimal() else 0
