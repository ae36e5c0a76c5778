"""The snapshotter kit over every snapshotter there is."""

from __future__ import annotations

import fcntl
import functools
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from orlop_plugins.btrfs.snapshotter import BtrfsSnapshotter
from orlop_plugins.erofs.snapshotter import ErofsSnapshotter
from orlop_plugins.overlayfs.snapshotter import OverlaySnapshotter
from orlop_plugins.proxy.snapshotter import ProxySnapshotter
from orlop_plugins.vfs.snapshotter import VfsSnapshotter
from orlopd.plugin import SNAPSHOTTER
from orlopd.plugin.mount import mount, unmount
from orlopd.plugin.overlay import overlay_options
from orlopd.plugin.snapshots import REBASE, Snapshotter
from orlopd.plugin.values import Mount
from orlopd.testing.snapshotter import Factory, SnapshotterKit
from tests.support.served import proxied


class TestOverlayfs(SnapshotterKit):
    @pytest.fixture
    def factory(self) -> Factory[Snapshotter]:
        return functools.partial(OverlaySnapshotter, options=overlay_options())


class TestOverlayfsMetacopy(SnapshotterKit):
    @pytest.fixture
    def factory(self) -> Factory[Snapshotter]:
        return functools.partial(OverlaySnapshotter, options=(*overlay_options(), "metacopy=on"))


class TestOverlayfsUserxattr(SnapshotterKit):
    """With overlay's marks where a user namespace may write them."""

    @pytest.fixture
    def factory(self) -> Factory[Snapshotter]:
        return functools.partial(OverlaySnapshotter, options=(*overlay_options(), "userxattr"))


class TestProxied(SnapshotterKit):
    """overlayfs, over a socket."""

    @pytest.fixture
    def factory(self) -> Factory[Snapshotter]:
        inner = functools.partial(OverlaySnapshotter, options=overlay_options())
        return proxied(SNAPSHOTTER, inner, ProxySnapshotter, REBASE)


class TestVfs(SnapshotterKit):
    @pytest.fixture
    def factory(self) -> Factory[Snapshotter]:
        return VfsSnapshotter


class TestErofs(SnapshotterKit):
    @pytest.fixture
    def factory(self) -> Factory[Snapshotter]:
        return functools.partial(ErofsSnapshotter, options=overlay_options())


class TestErofsLoop(SnapshotterKit):
    """As before Linux 6.12, which mounts EROFS from block devices alone."""

    @pytest.fixture
    def factory(self) -> Factory[Snapshotter]:
        return functools.partial(ErofsSnapshotter, options=overlay_options(), loop=True)


@pytest.fixture(scope="class")
def btrfs() -> Iterator[Path]:
    """A btrfs of its own, in a file."""
    with tempfile.TemporaryDirectory(prefix="orlop-btrfs-") as outer:
        image, point = Path(outer, "image"), Path(outer, "point")
        with image.open("wb") as file:
            file.truncate(512 << 20)
        subprocess.run(["mkfs.btrfs", "--quiet", image], check=True, timeout=60)
        point.mkdir()
        mount(Mount("btrfs", str(image), ("loop", "noatime")), point)
        try:
            yield point
        finally:
            unmount(point, detach=True)


class TestBtrfs(SnapshotterKit):
    @pytest.fixture
    def tmp_path(self, btrfs: Path, tmp_path: Path) -> Path:
        own = btrfs / tmp_path.name
        own.mkdir()
        return own

    @pytest.fixture
    def factory(self) -> Factory[Snapshotter]:
        return BtrfsSnapshotter


class TestVfsOnBtrfs(SnapshotterKit):
    """Where files can share their data."""

    @pytest.fixture
    def tmp_path(self, btrfs: Path, tmp_path: Path) -> Path:
        own = btrfs / tmp_path.name
        own.mkdir()
        return own

    @pytest.fixture
    def factory(self) -> Factory[Snapshotter]:
        return VfsSnapshotter

    async def test_a_copy_shares_the_data_of_what_it_is_a_copy_of(self, tmp_path: Path) -> None:
        (tmp_path / "sharing").mkdir()
        snapshotter = VfsSnapshotter(tmp_path / "sharing")
        [base] = await snapshotter.prepare("base", "")
        file = Path(base.source, "file")
        await anyio.Path(file).write_bytes(os.urandom(1 << 20))
        assert not any(shared(file))
        await snapshotter.commit("layer", "base")
        [copy] = await snapshotter.prepare("copy", "layer")
        extents = shared(Path(copy.source, "file"))
        assert extents
        assert all(extents)
        await snapshotter.aclose()


_FIEMAP = 0xC020660B
_SYNC = 1
_SHARED = 0x2000
_EXTENT = struct.Struct("QQQQQIIII")
_HEAD = struct.Struct("QQIIII")


def shared(path: Path) -> list[bool]:
    """Of each extent of a file, whether others have it too (FIEMAP, Documentation/filesystems of Linux)."""
    most = 32
    request = bytearray(_HEAD.pack(0, 1 << 40, _SYNC, 0, most, 0) + bytes(most * _EXTENT.size))
    with path.open("rb") as file:
        fcntl.ioctl(file, _FIEMAP, request)
    count = _HEAD.unpack_from(request)[3]
    flags = [_EXTENT.unpack_from(request, _HEAD.size + at * _EXTENT.size)[5] for at in range(count)]
    return [bool(each & _SHARED) for each in flags]
