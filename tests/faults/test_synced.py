"""What the parts promise to be on the disk is there when power is cut right after."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop_plugins.content_local.store import LocalStore
from orlop_plugins.overlayfs.snapshotter import OverlaySnapshotter
from orlop_plugins.vfs.snapshotter import VfsSnapshotter
from orlopd.plugin.snapshotter_base import SnapshotterBase
from orlopd.plugin.values import sha256

from .disks import Ext4

pytestmark = pytest.mark.anyio

BYTES = b"all of it" * 5000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Ext4]:
    with Ext4(tmp_path / "disk", tmp_path / "root", 64) as disk:
        yield disk


@pytest.mark.parametrize("kind", [VfsSnapshotter, OverlaySnapshotter])
async def test_a_committed_snapshot_keeps_its_files(
    tmp_path: Path, disk: Ext4, kind: type[SnapshotterBase]
) -> None:
    part = kind(tmp_path / "root")
    [mount] = await part.prepare("key", "")
    (Path(mount.source) / "folder").mkdir()
    (Path(mount.source) / "folder/file").write_bytes(BYTES)
    await part.commit("name", "key")
    disk.cut()
    await part.aclose()
    disk.mend()
    part = kind(tmp_path / "root")
    try:
        [mount] = await part.view("view", "name")
        assert (Path(mount.source) / "folder/file").read_bytes() == BYTES
    finally:
        await part.aclose()


async def test_a_copy_of_a_snapshot_is_whole(tmp_path: Path, disk: Ext4) -> None:
    part = VfsSnapshotter(tmp_path / "root")
    [mount] = await part.prepare("key", "")
    (Path(mount.source) / "file").write_bytes(BYTES)
    await part.commit("name", "key")
    await part.prepare("copy", "name")
    disk.cut()
    await part.aclose()
    disk.mend()
    part = VfsSnapshotter(tmp_path / "root")
    try:
        [mount] = await part.mounts("copy")
        assert (Path(mount.source) / "file").read_bytes() == BYTES
    finally:
        await part.aclose()


async def test_deleted_blobs_stay_deleted(tmp_path: Path, disk: Ext4) -> None:
    store = await LocalStore.at(tmp_path / "root")
    digests: list[str] = []
    for number in range(50):
        async with await store.ingest(f"ref-{number}") as ingest:
            await ingest.write(BYTES[number:])
            digests.append((await ingest.commit()).digest)
    assert await store.delete_many(digests[:49]) == {}
    disk.cut()
    disk.mend()
    store = await LocalStore.at(tmp_path / "root")
    assert [info.digest async for info in store.blobs()] == digests[49:]


@pytest.mark.parametrize("lost", [0, 1, 100_000, 1 << 20, (3 << 20) + 5])
async def test_an_ingest_goes_on_from_what_is_as_it_was_written(tmp_path: Path, lost: int) -> None:
    """After a power cut a file may have its length, and nothing in it from some place on."""
    data = random.Random(1).randbytes((3 << 20) + 5)
    store = await LocalStore.at(tmp_path)
    async with await store.ingest("ref") as ingest:
        for start in range(0, len(data), 300_000):
            await ingest.write(data[start : start + 300_000])
    _lose(tmp_path, len(data) - lost, len(data))
    store = await LocalStore.at(tmp_path)
    async with await store.ingest("ref") as ingest:
        offset = ingest.status.offset
        whole = len(data) - lost
        # Of the marks of a MiB only the last is kept.
        assert max(0, whole - (1 << 20) - 300_000) <= offset <= whole
        assert lost or offset == whole
        await ingest.write(data[offset:])
        assert (await ingest.commit()).digest == sha256(data)


def _lose(root: Path, start: int, end: int) -> None:
    [path] = root.glob("ingest/*/data")
    with path.open("r+b") as file:
        file.truncate(start)
        file.truncate(end)


async def test_an_ingest_that_was_cut_is_cut_for_good(tmp_path: Path) -> None:
    store = await LocalStore.at(tmp_path)
    async with await store.ingest("ref") as ingest:
        await ingest.write(b"a" * (2 << 20))
        await ingest.write(b"b" * 100)
        await ingest.truncate(1 << 20)
        await ingest.write(b"c")
    store = await LocalStore.at(tmp_path)
    async with await store.ingest("ref") as ingest:
        assert ingest.status.offset == (1 << 20) + 1
        assert await ingest.digest() == sha256(b"a" * (1 << 20) + b"c")
        await ingest.truncate(0)
    async with await store.ingest("ref") as ingest:
        assert ingest.status.offset == 0
