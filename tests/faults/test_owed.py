"""What the metadata owes after a change that it could not take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orlopd.core.store import Store
from orlopd.plugin.errors import AlreadyExists, NotFound, ResourceExhausted
from orlopd.plugin.values import SnapshotKind
from tests.support.store import NS, World, keys

pytestmark = pytest.mark.anyio

ROOT = {"containerd.io/gc.root": "x"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def full(store: Store, after: int) -> Iterator[None]:
    """With a database that takes ``after`` changes and no more."""
    real, left = store.db.write, after

    async def write(fn: Callable[[Any], Any], *, alone: bool = False, durable: bool = True) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ResourceExhausted("the disk is full")
        return await real(fn, alone=alone, durable=durable)

    store.db.write = write
    try:
        yield
    finally:
        store.db.write = real


async def test_a_blob_that_could_not_be_recorded_is_deleted(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        await store.gc.collect()  # the first looks for what no metadata knows
        async with await store.content.ingest(NS, "ref") as ingest:
            await ingest.write(b"data")
            with full(store, 0), pytest.raises(ResourceExhausted):
                await ingest.commit()
        await store.gc.collect()
        assert world.blobs == set()


async def test_a_snapshot_that_could_not_be_recorded_is_deleted(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        snapshots = store.snapshots.for_name("mem")
        await store.db.next_id()
        await store.gc.collect()
        with full(store, 0), pytest.raises(ResourceExhausted):
            await snapshots.prepare(NS, "key", labels=ROOT)
        await store.gc.collect()
        assert world.snapshotter.snapshots == {}


async def test_a_commit_that_could_not_be_recorded_is_with_the_next_change(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        snapshots = store.snapshots.for_name("mem")
        await snapshots.prepare(NS, "key", labels=ROOT)
        with full(store, 1), pytest.raises(ResourceExhausted):
            await snapshots.commit(NS, "name", "key", ROOT)
        with pytest.raises(AlreadyExists):
            await snapshots.commit(NS, "name", "key", ROOT)
        assert await keys(store) == {"name"}
        assert (await snapshots.stat(NS, "name")).kind is SnapshotKind.COMMITTED


async def test_a_commit_that_failed_and_could_not_be_undone_can_be_done_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        snapshots = store.snapshots.for_name("mem")
        await snapshots.prepare(NS, "key", labels=ROOT)
        world.snapshotter.fail["commit"] = NotFound("no such file")
        with full(store, 1), pytest.raises(NotFound):
            await snapshots.commit(NS, "name", "key", ROOT)
        world.snapshotter.fail.clear()
        await snapshots.commit(NS, "name", "key", ROOT)
        assert await keys(store) == {"name"}
