"""Bytes and folders go with their records, also where a store refuses or a daemon dies."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orlopd.core import schema
from orlopd.core.store import Store
from orlopd.plugin.errors import FailedPrecondition, OrlopError
from orlopd.plugin.values import sha256
from tests.support.store import NS, World, chain, digests, keys, put


async def test_what_goes_again_while_its_note_is_worked_off_is_not_forgotten(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    remover = store.gc._data
    strike_off = remover._strike_off
    await store.gc.collect()
    await store.content.delete(NS, await put(store, b"again"))

    async def late(notes: list[object]) -> None:
        if notes:
            monkeypatch.undo()
            await store.content.delete(NS, await put(store, b"again"))
        await strike_off(notes)  # type: ignore[arg-type]

    monkeypatch.setattr(remover, "_strike_off", late)
    await store.gc.collect()
    assert len(world.blobs) == 1
    await store.gc.collect()
    assert world.blobs == set()


async def test_data_that_a_crash_left_goes_at_the_next_start(world: World) -> None:
    async with world.open() as store:
        kept = await put(store, b"kept", {"root": "x"})
        content = store.content._store
        async with await content.ingest("lost") as ingest:
            await ingest.write(b"lost")
            await ingest.commit()
        async with await content.ingest("half") as ingest:
            await ingest.write(b"half")
        await world.snapshotter.prepare("testing/1/lost", "")
        await world.snapshotter.commit("testing/2/lost", "testing/1/lost")
        await world.snapshotter.prepare("testing/3/lost", "testing/2/lost")
    async with world.open() as store:
        await store.gc.collect()
    assert (world.blobs, world.ingests, world.snapshotter.snapshots) == ({kept}, 0, {})


async def test_what_a_store_refuses_is_tried_again(store: Store, world: World) -> None:
    await chain(store, "loose")
    world.snapshotter.fail["remove"] = FailedPrecondition("busy")
    await store.gc.collect()
    assert (await keys(store), len(world.snapshotter.snapshots)) == (set(), 1)
    world.snapshotter.fail.clear()
    await store.gc.collect()
    assert world.snapshotter.snapshots == {}


async def test_a_blob_that_a_store_refuses_to_delete_is_tried_again(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    content: Any = store.content._store
    digests = [await put(store, bytes([number])) for number in range(3)]
    real = content.delete_many
    asked: list[int] = []

    async def refuse(wanted: Sequence[str]) -> Mapping[str, OrlopError]:
        asked.append(len(wanted))
        if len(asked) == 1:
            raise FailedPrecondition("not now")
        if len(asked) == 2:
            return {**await real(wanted[1:]), wanted[0]: FailedPrecondition("busy")}
        return await real(wanted)

    monkeypatch.setattr(content, "delete_many", refuse)
    assert (await store.gc.collect()).deleted == 0
    assert world.blobs == set(digests)
    assert (await store.gc.collect()).deleted == 2
    assert len(world.blobs) == 1
    result = await store.gc.collect()
    assert (result.deleted, result.freed, world.blobs, asked) == (1, 1, set(), [3, 3, 1])


class _OneByOne:
    """A content store that cannot delete many at once."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if name == "delete_many":
            raise AttributeError(name)
        return getattr(self._store, name)


async def test_a_store_that_deletes_no_many_at_once_is_asked_for_each(store: Store, world: World) -> None:
    remover = store.gc._data
    remover._content = _OneByOne(remover._content)  # type: ignore[assignment]
    for number in range(3):
        await put(store, bytes([number]))
    result = await store.gc.collect()
    assert (result.deleted, result.freed, world.blobs) == (3, 3, set())


async def test_a_look_for_orphans_that_failed_is_done_again(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    content: Any = store.content._store
    async with await content.ingest("lost") as ingest:
        await ingest.write(b"lost")
        await ingest.commit()

    async def fail() -> AsyncIterator[object]:
        raise FailedPrecondition("not now")
        yield  # pragma: no cover

    with monkeypatch.context() as patch:
        patch.setattr(content, "blobs", fail)
        await store.gc.collect()
    assert len(world.blobs) == 1
    await store.gc.collect()
    assert world.blobs == set()


async def test_a_note_of_what_is_to_go_outlives_a_crash(world: World) -> None:
    async with world.open() as store:
        await chain(store, "loose")
        await store.gc.collect()
        await chain(store, "late")
        world.snapshotter.fail["remove"] = FailedPrecondition("busy")
        await store.gc.collect()
    world.snapshotter.fail.clear()
    async with world.open() as store:
        await store.gc.collect()
    assert world.snapshotter.snapshots == {}


@pytest.mark.parametrize("half", [False, True], ids=["as it was", "with tables that came before the number"])
async def test_a_database_of_version_1_is_brought_forward_and_collected(world: World, half: bool) -> None:
    old = (Path(__file__).parent / "schema_version_1.sql").read_text()
    if half:
        old += "CREATE TABLE removals (id INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL,"
        old += " node TEXT NOT NULL, at INTEGER NOT NULL, how TEXT NOT NULL, cause TEXT NOT NULL,"
        old += " cause_how TEXT NOT NULL); INSERT INTO counters VALUES ('collecting', 0);"
    with closing(sqlite3.connect(world.database)) as conn:
        conn.executescript(old)
    kept, loose = sha256(b"kept"), sha256(b"loose")
    folder = world.folder / "content" / "blobs" / "sha256"
    folder.mkdir(parents=True)
    for digest, data in ((kept, b"kept"), (loose, b"loose")):
        (folder / digest.removeprefix("sha256:")).write_bytes(data)
    async with world.open() as store:
        assert (await store.gc.collect()).removed == {"contents": 1}
        assert (await digests(store), world.blobs) == ({kept}, {kept})
        assert (await store.namespaces.get("testing")).labels == {"team": "old"}
        # What is deleted by name is recorded, as in a database that was made now.
        await store.images.delete(NS, "old")
    with closing(sqlite3.connect(world.database)) as conn:
        assert conn.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        told = conn.execute("SELECT node, how FROM removals ORDER BY id").fetchall()
        assert [node for node, _ in told] == [f"c:{loose}", "i:old"]
        assert told[1][1] == "deleted"
        shape = "SELECT type, name, tbl_name FROM sqlite_master ORDER BY 1, 2"
        brought = conn.execute(shape).fetchall()
    fresh = world.folder / "fresh"
    fresh.mkdir()
    async with World(fresh).open():
        pass
    with closing(sqlite3.connect(fresh / "metadata.db")) as conn:
        assert conn.execute(shape).fetchall() == brought
