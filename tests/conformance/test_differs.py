"""The differ kit over every differ there is."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from orlop_plugins.erofs.differ import ErofsDiffer
from orlop_plugins.erofs.snapshotter import ErofsSnapshotter
from orlop_plugins.tar.differ import TarDiffer
from orlop_plugins.tar.limits import Limits
from orlop_plugins.tar.pool import WorkerPool
from orlopd.plugin.content import BlobReader, Ingest
from orlopd.plugin.diff import Differ, Progress
from orlopd.plugin.errors import FailedPrecondition, NotFound, OrlopError, Unimplemented
from orlopd.plugin.mount import overlay_layers
from orlopd.plugin.overlay import overlay_options
from orlopd.plugin.snapshots import TARGET_LABEL
from orlopd.plugin.values import Descriptor, Mount, sha256
from orlopd.testing._layers import DOCKER, GZIP, TAR, ZSTD, Host, children
from orlopd.testing.archives import Member, archive, folder, gzipped
from orlopd.testing.blobs import FileBlob, MemoryBlob, MemoryIngest
from orlopd.testing.differ import DifferKit, Factory
from orlopd.testing.snapshotter import inside
from tests.support.far_differ import FarDiffer, far_differ
from tests.support.forks import Forks, forks

LOG = logging.getLogger("test")


@pytest.fixture(scope="module")
def walkers() -> Iterator[Forks]:
    with forks() as made:
        yield made


@pytest.fixture(scope="module")
def imagers() -> Iterator[Forks]:
    with forks("orlop_plugins.erofs.worker") as made:
        yield made


def make(pool: Callable[[], WorkerPool], root: Path) -> TarDiffer:
    scratch = root / "scratch"
    scratch.mkdir()
    return TarDiffer(pool(), scratch, Limits())


class TestWalking(DifferKit):
    """With a pool of its own for each test."""

    @pytest.fixture
    def factory(self) -> Factory[Differ]:
        return partial(make, partial(WorkerPool, 2, LOG))


class TestProxied(DifferKit):
    """The same, over a socket, with layers in a host's content."""

    @pytest.fixture
    def factory(self, walkers: Forks) -> Factory[Differ]:
        return far_differ(partial(make, partial(walkers.pool, 2, LOG)))

    # What the protocol of containerd's diff service cannot say.

    @pytest.mark.parametrize("media_type", [TAR, GZIP, ZSTD, DOCKER])
    async def test_it_handles_layers_and_nothing_else(self, differ: Differ, media_type: str) -> None:
        assert differ.handles(media_type)
        assert differ.handles(f"{media_type}+encrypted")  # the other side may have a processor for it
        for other in ("", "text/plain", "application/vnd.oci.image.config.v1+json"):
            assert not differ.handles(other)

    async def test_a_blob_in_a_file_and_progress(self, differ: Differ, host: Host) -> None:
        data = gzipped(archive([Member("big", os.urandom(24 << 20))]), level=0)
        path = host.path / "blob"
        path.write_bytes(data)
        seen: list[int] = []
        layer = Descriptor(GZIP, sha256(data), len(data))
        await differ.apply(layer, FileBlob(path), host.bind("layer"), progress=seen.append)
        assert (host.folder("layer") / "big").stat().st_size == 24 << 20
        assert seen == []  # nothing is told before the end

    async def test_unpacking_for_a_copy_knows_no_whiteouts(self, differ: Differ, host: Host) -> None:
        with pytest.raises(Unimplemented, match="works on the daemon's content alone"):
            await differ.unpack_tar(MemoryBlob(archive([Member("b", b"123")])), host.bind("layer"))
        assert list(host.folder("layer").iterdir()) == []

    async def test_an_unknown_media_type_is_refused(self, differ: Differ, host: Host) -> None:
        with pytest.raises(Unimplemented, match='no differ handles media type "text/plain"'):
            await self.diff(differ, [], host.bind("source"), "text/plain")

    async def test_a_cancelled_apply_leaves_no_worker(self, differ: Differ, host: Host) -> None:
        """It is the host's content that has no end here: a kit's blob is whole before the differ is asked."""
        assert isinstance(differ, FarDiffer)
        asked = anyio.Event()

        class Stuck(MemoryBlob):
            async def read_at(self, offset: int, size: int) -> bytes:
                asked.set()
                await anyio.sleep_forever()
                return b""

        async def stuck(*_: object) -> Stuck:
            return Stuck(data)

        data = archive([Member("a", b"x" * 100_000)])
        await self.apply(differ, host.bind("before"), data)
        before = await anyio.to_thread.run_sync(children)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(differ.content, "open", stuck)
            async with anyio.create_task_group() as group:
                group.start_soon(self.apply, differ, host.bind("layer"), data)
                with anyio.fail_after(30):
                    await asked.wait()
                group.cancel_scope.cancel()
            with anyio.fail_after(30):
                while await anyio.to_thread.run_sync(children) - before:  # noqa: ASYNC110 - nobody tells
                    await anyio.sleep(0.05)
        await self.apply(differ, host.bind("after"), data)

    # And what it has besides.

    async def test_a_layer_that_the_host_does_not_have(self, differ: Differ, host: Host) -> None:
        assert isinstance(differ, FarDiffer)
        with pytest.raises(NotFound, match=sha256(b"nowhere")):
            await differ.proxy.apply_in("testing", Descriptor(TAR, sha256(b"nowhere"), 7), host.bind("layer"))

    async def test_bytes_that_are_in_no_content(self, differ: Differ, host: Host) -> None:
        assert isinstance(differ, FarDiffer)
        data, mounts = archive([Member("a", b"1")]), host.bind("layer")
        with pytest.raises(Unimplemented):
            await differ.proxy.apply(Descriptor(TAR, sha256(data), len(data)), MemoryBlob(data), mounts)
        with pytest.raises(Unimplemented):
            await differ.proxy.diff([], mounts, TAR, MemoryIngest())


class ThroughImages:
    """The differ for EROFS images, for a kit that knows directories: what is in the directory becomes a
    snapshot, the layer one on top of that, and what both show together comes to be in the directory."""

    def __init__(self, walkers: Forks, imagers: Forks, root: Path) -> None:
        for name in ("erofs", "images"):
            (root / name).mkdir()
        self._snapshotter = ErofsSnapshotter(root / "erofs", overlay_options())
        self._differ = ErofsDiffer(imagers.pool(2, LOG), root / "images", Limits())
        self._walking = make(partial(walkers.pool, 2, LOG), root)
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
    def factory(self, walkers: Forks, imagers: Forks) -> Factory[Differ]:
        return partial(ThroughImages, walkers, imagers)

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
