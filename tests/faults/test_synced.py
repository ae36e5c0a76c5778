"""What the parts promise to be on the disk is there when power is cut right after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop_plugins.overlayfs.snapshotter import OverlaySnapshotter
from orlop_plugins.vfs.snapshotter import VfsSnapshotter
from orlopd.plugin.snapshotter_base import SnapshotterBase

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
