"""The snapshotter base when things go wrong, and what the first-party snapshotters say of themselves."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from orlop_plugins.btrfs.plugin import probe as btrfs_probe
from orlop_plugins.erofs import image as erofs_image
from orlop_plugins.erofs.snapshotter import ErofsSnapshotter
from orlop_plugins.overlayfs.snapshotter import GIDS, UIDS, OverlaySnapshotter
from orlopd.plugin import overlay as probe
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Skip
from orlopd.plugin.mount import mount, mount_points, unmount
from orlopd.plugin.overlay import overlay_options
from orlopd.plugin.snapshotter_base import Snapshot, SnapshotterBase
from orlopd.plugin.values import Mount
from orlopd.testing.snapshotter import inside, tree, write

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Fragile(SnapshotterBase):
    """Fails when told to, and waits when told to."""

    fail: int = 0
    gate: threading.Event | None = None
    inside: threading.Event

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.inside = threading.Event()

    def make(self, snapshot: Snapshot) -> None:
        (snapshot.path / "fs").mkdir()
        self.inside.set()
        if self.gate is not None:
            self.gate.wait(10)
        if self.fail:
            raise OSError(self.fail, "told to")

    def mount_points(self, snapshot: Snapshot) -> Sequence[Mount]:
        return [Mount("bind", str(snapshot.path / "fs"), ("rbind",))]


def folders(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob("*/*"))


async def test_a_snapshot_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    part = Fragile(tmp_path)
    part.fail = errno.ENOSPC
    with pytest.raises(ResourceExhausted, match="cannot make snapshot 'key'"):
        await part.prepare("key", "")
    assert folders(tmp_path) == []
    part.fail = 0
    await part.prepare("key", "")
    await part.aclose()


async def test_what_a_crash_left_is_swept(tmp_path: Path) -> None:
    part = Fragile(tmp_path)
    await part.prepare("key", "")
    await part.aclose()
    # Made, but its row was never written; and removed, but not deleted.
    (tmp_path / "snapshots" / "2" / "fs").mkdir(parents=True)
    (tmp_path / "trash" / "1" / "fs").mkdir(parents=True)
    part = Fragile(tmp_path)
    await part.cleanup()
    assert folders(tmp_path) == ["snapshots/1"]
    mounts = await part.prepare("other", "")
    assert "/snapshots/3/" in mounts[0].source
    await part.aclose()


async def test_numbers_are_never_used_again(tmp_path: Path) -> None:
    for number in range(3):
        part = Fragile(tmp_path)
        (made,) = await part.prepare("key", "")
        assert made.source.endswith(f"/{number + 1}/fs")
        await part.remove("key")
        await part.aclose()


async def test_a_parent_in_use_is_not_removed_while_its_child_is_made(tmp_path: Path) -> None:
    part = Fragile(tmp_path)
    await part.prepare("key", "")
    await part.commit("base", "key")
    part.gate = threading.Event()
    part.inside.clear()
    async with anyio.create_task_group() as group:
        group.start_soon(part.prepare, "child", "base")
        await anyio.to_thread.run_sync(part.inside.wait)
        with pytest.raises(FailedPrecondition, match="becoming the parent"):
            await part.remove("base")
        await part.cleanup()  # leaves alone what is being made
        part.gate.set()
    await part.remove("child")
    await part.remove("base")
    assert folders(tmp_path) == []
    await part.aclose()


async def test_a_removal_that_does_not_work_now_is_made_up_for(tmp_path: Path) -> None:
    part = Fragile(tmp_path)
    (made,) = await part.prepare("key", "")
    busy = Path(made.source) / "busy"
    busy.mkdir()
    mount(Mount("tmpfs", "tmpfs"), busy)
    await part.remove("key")
    assert folders(tmp_path) == ["trash/1"]
    unmount(tmp_path)
    await part.cleanup()
    assert folders(tmp_path) == []
    await part.aclose()


async def test_keys_and_names_are_not_empty(tmp_path: Path) -> None:
    part = Fragile(tmp_path)
    with pytest.raises(InvalidArgument):
        await part.prepare("", "")
    await part.prepare("key", "")
    with pytest.raises(InvalidArgument):
        await part.commit("", "key")
    await part.aclose()


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "snapshots.db") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(FailedPrecondition, match="has schema 99"):
        Fragile(tmp_path)


async def test_cve_2021_41103_folders_are_for_root_alone(tmp_path: Path) -> None:
    part = OverlaySnapshotter(tmp_path)
    await part.prepare("key", "")
    assert (tmp_path / "snapshots").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "snapshots" / "1").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "snapshots.db").stat().st_mode & 0o777 == 0o600
    await part.aclose()


async def test_one_thousand_snapshots_on_one_base_walk_in_order(tmp_path: Path) -> None:
    part = Fragile(tmp_path)
    await part.prepare("key", "")
    await part.commit("base", "key")
    async with anyio.create_task_group() as group:
        for number in range(600):
            group.start_soon(part.prepare, f"key-{number}", "base")
    assert len([info async for info in part.walk()]) == 601
    await part.aclose()


def test_the_probe_passes_here(tmp_path: Path) -> None:
    probe.probe(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_probe_removes_what_one_left_that_was_killed(tmp_path: Path) -> None:
    point = tmp_path / "probe-0a1b2c3d" / "orlop-mount-1" / "root"
    point.mkdir(parents=True)
    mount(Mount("tmpfs", "tmpfs"), point)
    (point / "file").touch()
    probe.probe(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_probe_names_a_filesystem_that_cannot_be_an_upper_one(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    parts = [inner / name for name in ("lower", "upper", "work")]
    for part in parts:
        part.mkdir(parents=True)
    lower, upper, work = parts
    where = tmp_path / "where"
    where.mkdir()
    # An overlay itself cannot be one.
    mount(Mount("overlay", "overlay", (f"lowerdir={lower}", f"upperdir={upper}", f"workdir={work}")), where)
    try:
        with pytest.raises(Skip, match="upper directory on overlay at"):
            probe.probe(where)
        assert list(where.iterdir()) == []
    finally:
        unmount(where)


async def test_a_volatile_snapshot_is_mounted_again_until_the_machine_is(tmp_path: Path) -> None:
    part = OverlaySnapshotter(tmp_path, overlay_options(), volatile=True)
    await part.prepare("key", "")
    await part.commit("base", "key")
    mounts = await part.prepare("top", "base")
    assert "volatile" in mounts[0].options
    await inside(mounts, write({"a": "1"}))
    assert await inside(await part.mounts("top"), tree) == {"a": "1"}
    await anyio.Path(tmp_path / "snapshots" / "2" / "boot").write_text("another one")
    with pytest.raises(FailedPrecondition, match="started anew"):
        await part.mounts("top")
    assert "volatile" not in (await part.view("look", "base"))[0].options
    await part.remove("top")
    await part.aclose()


def test_subvolumes_need_btrfs(tmp_path: Path) -> None:
    with pytest.raises(Skip, match="not on btrfs"):
        btrfs_probe(tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_an_erofs_layer_is_an_image_and_nothing_else(tmp_path: Path) -> None:
    part = ErofsSnapshotter(tmp_path, overlay_options())
    await inside(await part.prepare("key", ""), write({"a": "1"}))
    await part.commit("base", "key")
    folder = tmp_path / "snapshots" / "1"
    assert folders(tmp_path / "snapshots") == ["1/image", "1/layer.erofs"]
    # A crash before the files went leaves them for the next cleanup.
    (folder / "fs").mkdir()
    await part.cleanup()
    assert not (folder / "fs").exists()
    assert (await part.usage("base")).inodes == 2
    await part.prepare("top", "base")
    assert mount_points(tmp_path) == [str(folder / "image")]
    # The next daemon takes over what one that was killed left mounted.
    other = ErofsSnapshotter(tmp_path, overlay_options())
    assert await inside(await other.mounts("top"), tree) == {"a": "1"}
    assert mount_points(tmp_path) == [str(folder / "image")]
    await other.aclose()
    assert mount_points(tmp_path) == []
    assert await inside(await part.mounts("top"), tree) == {"a": "1"}
    await part.remove("top")
    await part.remove("base")
    assert mount_points(tmp_path) == []
    await part.aclose()


def test_erofs_says_what_it_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert erofs_image.probe(tmp_path, compression="lz4") is False
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    assert erofs_image.probe(tmp_path) is False  # only compressing takes a program
    with pytest.raises(Skip, match=r"no mkfs\.erofs"):
        erofs_image.probe(tmp_path, compression="lz4")


async def test_layers_show_other_owners_to_a_user_namespace(tmp_path: Path) -> None:
    def own(root: Path) -> None:
        write({"a": "1", "b": "1"})(root)
        os.chown(root / "b", 1000, 1001)

    def look(root: Path) -> list[tuple[int, int]]:
        return [(path.stat().st_uid, path.stat().st_gid) for path in (root, root / "a", root / "b")]

    part = OverlaySnapshotter(tmp_path, overlay_options())
    await inside(await part.prepare("key", ""), own)
    await part.commit("one", "key")
    await part.prepare("key", "one")
    await part.commit("two", "key")
    maps = {UIDS: "0:200000:65536", GIDS: "0:300000:65536"}
    shifted = [(200000, 300000), (200000, 300000), (201000, 301001)]
    for parent in ("one", "two"):
        mounts = await part.prepare(f"active-{parent}", parent, maps)
        assert await inside(mounts, look) == shifted
        # What is copied up keeps its owner, and who looks without the map sees the layer as it is.
        await inside(mounts, lambda root: (root / "b").write_text("2"))
        assert await inside(await part.mounts(f"active-{parent}"), look) == shifted
        assert await inside(await part.view(f"view-{parent}", parent, maps), look) == shifted
        assert (await inside(await part.view(f"plain-{parent}", parent), look))[2] == (1000, 1001)
    with pytest.raises(InvalidArgument, match="malformed"):
        await part.prepare("bad", "two", {UIDS: "0:200000"})
    await part.aclose()
