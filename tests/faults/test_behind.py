"""Layers reach the disk behind their commit: what a power cut then takes is told, and nothing else goes."""

from __future__ import annotations

import operator
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from orlop_plugins.erofs.snapshotter import ErofsSnapshotter
from orlop_plugins.overlayfs.snapshotter import OverlaySnapshotter
from orlop_plugins.vfs.snapshotter import VfsSnapshotter
from orlopd.plugin._snapshot_sync import Behind
from orlopd.plugin.errors import DataLoss, Unavailable
from orlopd.plugin.files import remove_tree
from orlopd.plugin.snapshots import TARGET_LABEL
from orlopd.plugin.snapshotter_base import SnapshotterBase
from orlopd.plugin.values import Mount, Usage
from tests.support.daemon import Daemon, eventually, processes_naming
from tests.support.images import make_image, text_layer
from tests.support.registry import Registry, registry

from .disks import Ext4

pytestmark = pytest.mark.anyio

BYTES = b"all of it" * 5000
LAYER = {TARGET_LABEL: "name"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Ext4]:
    with Ext4(tmp_path / "disk", tmp_path / "root", 64) as disk:
        yield disk


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A folder that a reboot empties."""
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@asynccontextmanager
async def opened(
    disk: Ext4, state: Path, kind: type[SnapshotterBase] = OverlaySnapshotter
) -> AsyncIterator[SnapshotterBase]:
    part = kind(disk.point)
    try:
        async with anyio.create_task_group() as tasks:
            part.sync_behind(state, tasks)
            yield part
            tasks.cancel_scope.cancel()
    finally:
        await part.aclose()


def reboot(disk: Ext4, state: Path) -> None:
    disk.mend()
    shutil.rmtree(state)
    state.mkdir()


def upper(mounts: list[Mount] | tuple[Mount, ...]) -> Path:
    """Where a snapshot's own files go."""
    [mount] = mounts
    found = [each.partition("=")[2] for each in mount.options if each.startswith("upperdir=")]
    return Path(found[0] if found else mount.source)


async def layer(part: SnapshotterBase, name: str, parent: str = "") -> None:
    folder = upper(tuple(await part.prepare(f"extract {name}", parent, LAYER)))
    (folder / name).write_bytes(BYTES)
    await part.commit(name, f"extract {name}", LAYER)


@pytest.mark.parametrize("kind", [OverlaySnapshotter, ErofsSnapshotter])
async def test_a_layer_that_was_in_memory_only_is_told_lost_with_what_is_on_it(
    disk: Ext4, state: Path, kind: type[SnapshotterBase]
) -> None:
    async with opened(disk, state, kind) as part:
        assert await part.lost() == []
        await layer(part, "base")
        await layer(part, "top", "base")
        await part.prepare("extract next", "top", LAYER)
        disk.cut()
    reboot(disk, state)
    async with opened(disk, state, kind) as part:
        assert await part.lost() == ["extract next", "top", "base"]
        with pytest.raises(DataLoss, match="not written to the disk"):
            await part.prepare("box", "top")
        for key in await part.lost():
            await part.remove(key)
        await layer(part, "base")
        assert await part.lost() == []


async def test_a_daemon_that_died_has_lost_no_layer(disk: Ext4, state: Path) -> None:
    async with opened(disk, state) as part:
        await part.lost()
        await layer(part, "base")
        async with opened(disk, state) as next_one:
            assert await next_one.lost() == []
            assert (await next_one.stat("base")).name == "base"


async def test_a_container_stands_on_the_disk(disk: Ext4, state: Path) -> None:
    async with opened(disk, state) as part:
        await part.lost()
        await layer(part, "base")
        await layer(part, "top", "base")
        await part.prepare("box", "top")
        disk.cut()
    reboot(disk, state)
    async with opened(disk, state) as part:
        assert await part.lost() == []
        [view] = await part.view("view", "base")
        assert (Path(view.source) / "base").read_bytes() == BYTES


@pytest.mark.parametrize("kind", [OverlaySnapshotter, VfsSnapshotter, ErofsSnapshotter])
async def test_a_snapshot_that_never_came_to_the_disk_is_as_it_was_made(
    disk: Ext4, state: Path, kind: type[SnapshotterBase]
) -> None:
    async with opened(disk, state, kind) as part:
        await part.lost()
        begin_the_log_anew(part)
        # Whoever syncs a file in it has the whole of it, and all that came before.
        kept = upper(tuple(await part.prepare("kept", ""))) / "folder"
        kept.mkdir()
        fd = os.open(kept / "file", os.O_WRONLY | os.O_CREAT)
        os.write(fd, BYTES)
        os.fsync(fd)
        os.close(fd)
        for key in ("box", "other", "last"):
            await part.prepare(key, "")
        disk.cut()
    reboot(disk, state)
    async with opened(disk, state, kind) as part:
        assert len(list((disk.point / "snapshots").iterdir())) == 1, "the folders were on the disk"
        assert await part.lost() == []
        assert await part.faults() == []
        for key in ("box", "last"):
            assert list(upper(tuple(await part.mounts(key))).iterdir()) == []
        assert (upper(tuple(await part.mounts("kept"))) / "folder/file").read_bytes() == BYTES
        await part.commit("done", "box")
        await part.remove("other")


def begin_the_log_anew(part: SnapshotterBase) -> None:
    """Have the database write over the log that it has.

    A log that grows takes along what the filesystem was told before, folders too; for one that does not,
    only its own blocks are written.
    """
    database = part._db._connection
    database.execute("CREATE TABLE filler (bytes)")
    database.execute("INSERT INTO filler VALUES (zeroblob(500000))")
    database.execute("DROP TABLE filler")
    [(busy, *_)] = database.execute("PRAGMA wal_checkpoint(RESTART)")
    assert not busy


async def test_a_folder_that_somebody_took_away_is_missed(disk: Ext4, state: Path) -> None:
    async with opened(disk, state) as part:
        await part.lost()
        for key in ("box", "old"):
            await part.prepare(key, "")
        await part.prepare("synced", "")
        await part.commit("kept", "synced")
        remove_tree(upper(tuple(await part.mounts("box"))).parent)
        [fault] = await part.faults()
        assert fault.key == "box"
    reboot(disk, state)
    async with opened(disk, state) as part:
        remove_tree(upper(tuple(await part.mounts("old"))).parent)
        assert "old" in [fault.key for fault in await part.faults()]


async def test_what_is_no_layer_is_on_the_disk_with_all_below_it(disk: Ext4, state: Path) -> None:
    async with opened(disk, state) as part:
        await part.lost()
        await layer(part, "base")
        folder = upper(tuple(await part.prepare("box", "base")))
        (folder / "made").write_bytes(BYTES)
        await part.commit("kept", "box")
        await layer(part, "other")
        disk.cut()
    reboot(disk, state)
    async with opened(disk, state) as part:
        assert await part.lost() == ["other"]
        found = upper(tuple(await part.prepare("again", "kept"))).parent.parent
        assert [each.read_bytes() for each in found.glob("*/fs/made")] == [BYTES]


@pytest.mark.parametrize("how", ["stop", "wait"])
async def test_layers_come_to_the_disk_by_themselves(disk: Ext4, state: Path, how: str) -> None:
    async with opened(disk, state) as part:
        await part.lost()
        await layer(part, "base")
        if how == "wait":
            mark = Behind(part._db, disk.point, state).mark
            await anyio.to_thread.run_sync(eventually, lambda: part._db.unsynced(mark), operator.not_, 30)
            disk.cut()
    if how == "stop":
        disk.cut()
    reboot(disk, state)
    async with opened(disk, state) as part:
        assert await part.lost() == []


async def test_a_layer_whose_usage_cannot_be_written_down_is_measured_by_who_asks(
    disk: Ext4, state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(disk, state) as part:
        await part.lost()

        def broken(id: int, usage: Usage) -> None:
            raise Unavailable("the database cannot be used now")

        with monkeypatch.context() as broken_for_now:
            broken_for_now.setattr(part._db, "set_usage", broken)
            await layer(part, "base")
            await anyio.to_thread.run_sync(eventually, lambda: caplog.messages, bool, 30)
        assert caplog.messages == ["cannot measure snapshots: the database cannot be used now"]
        assert (await part.usage("base")).size >= len(BYTES)
        await layer(part, "next", "base")  # and so are those that come later
        await anyio.to_thread.run_sync(eventually, part._db.unmeasured, operator.not_, 30)


async def test_a_host_that_does_not_ask_has_its_layers_on_the_disk(disk: Ext4, state: Path) -> None:
    async with opened(disk, state) as part:
        await layer(part, "base")
        disk.cut()
    reboot(disk, state)
    async with opened(disk, state) as part:
        assert await part.lost() == []
        [view] = await part.view("view", "base")
        assert (Path(view.source) / "base").read_bytes() == BYTES


LATE = """
from orlopd.plugin import _snapshot_sync
_snapshot_sync._QUIET_SECONDS = 1000
"""
"""However long it takes until the power is cut, the layers are not on the disk by then."""


@pytest.mark.parametrize("snapshotter", ["overlayfs", "erofs"])
def test_an_image_that_was_not_on_the_disk_is_unpacked_again(tmp_path: Path, snapshotter: str) -> None:
    image = make_image([text_layer("one", "1" * 50_000), text_layer("two", "2" * 50_000)])
    daemon = Daemon(plugins={"late.py": LATE})
    try:
        with registry() as server, Ext4(tmp_path / "disk", daemon.root, 128) as disk:
            reference = Registry.push(server, "box:latest", image)
            daemon.start()
            daemon.must(daemon.orlop("pull", "-q", "--snapshotter", snapshotter, reference))
            disk.cut()
            daemon.kill9()
            eventually(lambda: processes_naming(str(daemon.folder)), lambda found: not found, 20)
            disk.mend()
            shutil.rmtree(daemon.state)
            daemon.start()
            assert "not on the disk yet" in daemon.log
            daemon.must(daemon.orlop("system", "fsck"))
            # Its content is there: nothing but the unpacking is done again.
            daemon.must(daemon.ctr("snapshots", "--snapshotter", snapshotter, "ls"))
            daemon.must(daemon.orlop("pull", "-q", "--snapshotter", snapshotter, reference))
            assert (
                daemon.must(daemon.ctr("snapshots", "--snapshotter", snapshotter, "ls")).count("Committed")
                == 2
            )
            daemon.stop()
            eventually(lambda: processes_naming(str(daemon.folder)), lambda found: not found, 20)
    finally:
        daemon.remove()
