"""The differ kit over every differ there is."""

from __future__ import annotations

import itertools
import logging
import subprocess
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
from orlopd.plugin.errors import NotFound
from orlopd.plugin.overlay import overlay_options
from orlopd.plugin.snapshots import TARGET_LABEL
from orlopd.plugin.values import Descriptor, Mount
from orlopd.testing.differ import DifferKit, Factory
from orlopd.testing.snapshotter import inside

LOG = logging.getLogger("test")


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
        prepared = await snapshotter.prepare(f"key-{number}", base, {TARGET_LABEL: "chain"})
        applied = await self._differ.apply(layer, blob, prepared, progress=progress)
        await snapshotter.commit(f"layer-{number}", f"key-{number}")
        view = await snapshotter.view(f"view-{number}", f"layer-{number}")
        await inside(view, lambda root: copy(root, folder))
        return applied

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

    async def unpack_tar(self, blob: BlobReader, mounts: Sequence[Mount]) -> int:
        return await self._walking.unpack_tar(blob, mounts)

    async def aclose(self) -> None:
        for part in (self._differ, self._walking, self._snapshotter):
            await part.aclose()


def copy(source: Path, target: Path) -> None:
    empty = ["find", target, "-mindepth", "1", "-delete"]
    for command in (empty, ["cp", "-a", "--sparse=always", f"{source}/.", target]):
        subprocess.run(command, check=True, timeout=60)


class TestErofs(DifferKit):
    @pytest.fixture
    def factory(self) -> Factory[Differ]:
        return ThroughImages
