"""The parts when a system call of theirs fails: a clear error, nothing half done, and it goes on after."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import pytest

from orlop_plugins.content_local import ingest as ingest_module
from orlop_plugins.content_local.store import LocalStore
from orlop_plugins.vfs.snapshotter import VfsSnapshotter
from orlopd.plugin.errors import FailedPrecondition, Internal, NotFound, ResourceExhausted, Unavailable
from orlopd.plugin.snapshotter_base import Snapshot, SnapshotterBase
from orlopd.plugin.values import Mount, sha256
from tests.support.store import World

pytestmark = pytest.mark.anyio

HELLO = b"hello, world"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def failing(times: int, then: Callable[..., object]) -> Callable[..., None]:
    left = [times]

    def call(*arguments: object) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        then(*arguments)

    return call


async def test_bytes_that_could_not_be_synced_are_not_committed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.at(tmp_path)
    monkeypatch.setattr(ingest_module.os, "fsync", failing(1, os.fsync))
    async with await store.ingest("ref") as ingest:
        await ingest.write(HELLO)
        with pytest.raises(Internal, match="cannot commit ingest 'ref': Input/output error"):
            await ingest.commit(len(HELLO), sha256(HELLO))
        # The kernel may have dropped the pages: a second fsync would tell nothing.
        with pytest.raises(FailedPrecondition):
            await ingest.commit(len(HELLO), sha256(HELLO))
        assert ingest.status.offset == 0
        await ingest.write(HELLO)
        await ingest.commit(len(HELLO), sha256(HELLO))
    async with await store.open(sha256(HELLO)) as reader:
        assert await reader.read_at(0, 100) == HELLO


async def test_a_name_that_could_not_be_synced_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.at(tmp_path)
    monkeypatch.setattr(ingest_module, "sync_folder", failing(1, ingest_module.sync_folder))
    async with await store.ingest("ref") as ingest:
        await ingest.write(HELLO)
        with pytest.raises(Internal):
            await ingest.commit()
        with pytest.raises(NotFound):
            await store.info(sha256(HELLO))
        await ingest.commit()
    assert (await store.info(sha256(HELLO))).size == len(HELLO)


async def test_a_write_that_fails_and_cannot_be_undone_leaves_no_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.at(tmp_path)
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if offset == 5:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, bytes(data)[:5], offset)

    async with await store.ingest("ref") as ingest:
        with monkeypatch.context() as patch:
            patch.setattr(ingest_module.os, "pwrite", pwrite)
            patch.setattr(ingest_module.os, "ftruncate", failing(1, os.ftruncate))
            with pytest.raises(Internal, match="cannot write to ingest 'ref'"):
                await ingest.write(b"x" * 50)
        await ingest.write(b"abc")
        assert (await ingest.commit()).digest == sha256(b"abc")
    assert (await store.info(sha256(b"abc"))).size == 3


async def test_an_ingest_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await LocalStore.at(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", failing(1, Path.write_text))
        with pytest.raises(Internal, match="cannot open ingest 'ref'"):
            await store.ingest("ref")
    assert list((tmp_path / "ingest").iterdir()) == []
    async with await store.ingest("ref") as ingest:
        assert ingest.status.offset == 0


async def test_a_full_disk_of_a_snapshotters_database_is_told(tmp_path: Path) -> None:
    part = VfsSnapshotter(tmp_path)
    await part.prepare("key", "")
    [pages] = part._db._connection.execute("PRAGMA page_count").fetchone()
    part._db._connection.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(200):
        try:
            await part.prepare(f"key-{number}", "", {"label": "x" * 200})
        except ResourceExhausted as error:
            said = error.message
            break
    else:
        pytest.fail("the database was never full")
    assert said.endswith("snapshots.db': No space left on device")
    part._db._connection.execute("PRAGMA max_page_count = 1000000")
    await part.prepare("another", "")
    names = {info.name async for info in part.walk()}
    assert len(list((tmp_path / "snapshots").iterdir())) == len(names)
    await part.aclose()


async def test_a_locked_database_of_a_snapshotter_is_told(tmp_path: Path) -> None:
    part = VfsSnapshotter(tmp_path)
    part._db._connection.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(tmp_path / "snapshots.db")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="cannot be used now"):
        await part.prepare("key", "")
    other.close()
    assert list((tmp_path / "snapshots").iterdir()) == []
    await part.aclose()


async def test_the_first_collection_empties_every_snapshotters_trash(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        await store.gc.collect()
        assert world.snapshotter.cleanups == 1
        await store.gc.collect()
        assert world.snapshotter.cleanups == 1


class Slow(SnapshotterBase):
    """Deletes when told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.inside = threading.Event()
        self.gate = threading.Event()
        self.drops = 0

    def make(self, snapshot: Snapshot) -> None:
        (snapshot.path / "fs").mkdir()

    def mount_points(self, snapshot: Snapshot) -> Sequence[Mount]:
        return [Mount("bind", str(snapshot.path / "fs"))]

    def drop(self, path: Path) -> None:
        self.drops += 1
        self.inside.set()
        self.gate.wait(10)
        super().drop(path)


async def test_a_cleanup_leaves_alone_what_a_removal_deletes(tmp_path: Path) -> None:
    part = Slow(tmp_path)
    await part.prepare("key", "")
    async with anyio.create_task_group() as group:
        group.start_soon(part.remove, "key")
        await anyio.to_thread.run_sync(part.inside.wait)
        await part.cleanup()
        assert part.drops == 1
        part.gate.set()
    assert list((tmp_path / "trash").iterdir()) == []
    await part.aclose()


async def test_a_number_in_the_trash_is_not_given_again(tmp_path: Path) -> None:
    part = VfsSnapshotter(tmp_path)
    await part.aclose()
    # Never recorded, moved away, not deleted.
    (tmp_path / "trash/1/full").mkdir(parents=True)
    part = VfsSnapshotter(tmp_path)
    [mount] = await part.prepare("key", "")
    assert Path(mount.source).parent.name == "2"
    await part.aclose()
