"""The differ kit over every differ there is."""

from __future__ import annotations

import contextlib
import itertools
import logging
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread
import pytest

from orlop_plugins.erofs.differ import ErofsDiffer
from orlop_plugins.erofs.snapshotter import ErofsSnapshotter
from orlop_plugins.tar.differ import TarDiffer
from orlop_plugins.tar.limits import Limits
from orlop_plugins.tar.pool import WorkerPool
from orlopd.plugin.content import BlobReader, Ingest
from orlopd.plugin.diff import Differ, Progress
from orlopd.plugin.errors import FailedPrecondition, NotFound, OrlopError
from orlopd.plugin.mount import overlay_layers
from orlopd.plugin.overlay import overlay_options
from orlopd.plugin.snapshots import TARGET_LABEL
from orlopd.plugin.values import Descriptor, Mount, sha256
from orlopd.testing._layers import Host
from orlopd.testing.archives import Member, archive, folder
from orlopd.testing.blobs import MemoryBlob
from orlopd.testing.differ import DifferKit, Factory
from orlopd.testing.snapshotter import inside

LOG = logging.getLogger("test")
TAR = "application/vnd.oci.image.layer.v1.tar"


def make(root: Path) -> TarDiffer:
    scratch = root / "scratch"
    scratch.mkdir()
    return TarDiffer(WorkerPool(2, LOG), scratch, Limits())


class TestWalking(DifferKit):
    @pytest.fixture
    def factory(self) -> Factory[Differ]:
        return make


class ThroughImages:
    """The differ for EROFS images, for a kit that knows directories: what is in the directory becomes a
    snapshot, the layer one on top of that, and what both show together comes to be in the directory."""

    def __init__(self, root: Path) -> None:
        for name in ("erofs", "images"):
            (root / name).mkdir()
        self._snapshotter = ErofsSnapshotter(root / "erofs", overlay_options())
        pool = WorkerPool(2, LOG, zygote="orlop_plugins.erofs.worker")
        self._differ = ErofsDiffer(pool, root / "images", Limits())
        self._walking = make(root)
        self._numbers = itertools.count()

    def handles(self, media_type: str) -> bool:
        return self._differ.handles(media_type)

    async def apply(
        self,
        layer: Descriptor,
        blob: BlobReader,
        mounts: Sequence[Mount],
        *,
        progress: Progress | None = None,
    ) -> Descriptor:
        number, folder = next(self._numbers), Path(mounts[0].source)
        snapshotter = self._snapshotter
        if not await anyio.Path(folder).is_dir():
            raise NotFound(f"there is no {folder}")
        base = ""
        if [each async for each in anyio.Path(folder).iterdir()]:
            base = f"base-{number}"
            await inside(await snapshotter.prepare("base", ""), lambda root: copy(folder, root))
            await snapshotter.commit(base, "base")
        prepared = await self.prepared(f"key-{number}", base)
        applied = await self._differ.apply(layer, blob, prepared, progress=progress)
        await snapshotter.commit(f"layer-{number}", f"key-{number}")
        view = await snapshotter.view(f"view-{number}", f"layer-{number}")
        await inside(view, lambda root: copy(root, folder))
        return applied

    async def prepared(self, key: str, base: str = "") -> Sequence[Mount]:
        """What the snapshotter gives for a layer."""
        return await self._snapshotter.prepare(key, base, {TARGET_LABEL: "chain"})

    async def onto(self, layer: Descriptor, blob: BlobReader, mounts: Sequence[Mount]) -> Descriptor:
        """Apply a layer to what :meth:`prepared` gave."""
        return await self._differ.apply(layer, blob, mounts)

    async def diff(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str,
        sink: Ingest,
        *,
        newest: int | None = None,
    ) -> str:
        return await self._walking.diff(lower, upper, media_type, sink, newest=newest)

    async def unpack_tar(
        self, blob: BlobReader, mounts: Sequence[Mount], *, uids: str = "", gids: str = ""
    ) -> int:
        return await self._walking.unpack_tar(blob, mounts, uids=uids, gids=gids)

    async def aclose(self) -> None:
        for part in (self._differ, self._walking, self._snapshotter):
            await part.aclose()


def copy(source: Path, target: Path) -> None:
    empty = ["find", target, "-mindepth", "1", "-delete"]
    for command in (empty, ["cp", "-a", "--sparse=always", f"{source}/.", target]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:  # as where somebody swaps what is copied
            raise FailedPrecondition(f"{command[0]}: {done.stderr}")


class TestErofs(DifferKit):
    @pytest.fixture
    def factory(self) -> Factory[Differ]:
        return ThroughImages

    async def test_cve_2025_47290_a_symlink_is_swapped_in_meanwhile(self, differ: Differ, host: Host) -> None:
        """No entry of an image is a name that could be swapped; files in the snapshot are not looked at."""
        assert isinstance(differ, ThroughImages)
        away, over = host.folder("away"), threading.Event()
        mounts = await differ.prepared("raced")
        files = Path(overlay_layers(mounts[0]).upper if mounts[0].type == "overlay" else mounts[0].source)

        def swap() -> None:
            while not over.is_set():
                (files / "d").symlink_to(away)
                (files / "d").unlink()

        data = archive([folder("d"), *(Member(f"d/{number}", b"hacked") for number in range(3000))])
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, swap)
            try:
                with contextlib.suppress(OrlopError):
                    await differ.onto(Descriptor(TAR, sha256(data), len(data)), MemoryBlob(data), mounts)
            finally:
                over.set()
        assert list(away.iterdir()) == []
        host.check()
