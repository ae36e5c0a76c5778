"""Generated trees and changes to them: a layer made of them and applied again gives what was there."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import Phase, example, given, settings

from orlop_plugins.overlayfs.snapshotter import OverlaySnapshotter
from orlop_plugins.tar.differ import TarDiffer
from orlop_plugins.tar.limits import Limits
from orlop_plugins.tar.pool import WorkerPool
from orlopd.plugin.errors import FailedPrecondition
from orlopd.plugin.overlay import overlay_options
from orlopd.plugin.values import Descriptor, Mount, sha256
from orlopd.testing.blobs import MemoryBlob, MemoryIngest
from orlopd.testing.differ import below
from orlopd.testing.snapshotter import inside
from tests.support.trees import CHANGES, TREES, Attributes, Step, Tree, blocks

# Paths are bytes: what is in a tree need not be text.

TAR = "application/vnd.oci.image.layer.v1.tar"
PROVE = bool(os.environ.get("ORLOP_PROVE"))
FULL = settings(max_examples=1000)
SHORT = settings(max_examples=60, derandomize=True, phases=[Phase.explicit, Phase.generate])

# --- The property -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workshop:
    """A differ that all examples share, and the loop it lives in."""

    portal: BlockingPortal
    differ: TarDiffer
    place: Path

    def do(self, job: Callable[[Path], Any]) -> None:
        """Do a job with a folder of its own."""
        with tempfile.TemporaryDirectory(dir=self.place) as name:
            self.portal.call(job, Path(name))

    async def diff(self, lower: Sequence[Mount], upper: Sequence[Mount], media_type: str = TAR) -> bytes:
        sink = MemoryIngest()
        await self.differ.diff(lower, upper, media_type, sink)
        return bytes(sink.data)

    async def apply(self, data: bytes, mounts: Sequence[Mount]) -> None:
        await self.differ.apply(Descriptor(TAR, sha256(data), len(data)), MemoryBlob(data), mounts)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    place = tmp_path_factory.mktemp("place")
    memory = Path("/dev/shm")
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=memory) as probe:
        os.setxattr(probe.fileno(), "user.probe", b"")  # a tmpfs knows them since Linux 6.6
        place = memory
    with start_blocking_portal() as portal:
        differ = TarDiffer(
            WorkerPool(2, logging.getLogger("test")), tmp_path_factory.mktemp("scratch"), Limits()
        )
        yield Workshop(portal, differ, place)
        portal.call(differ.aclose)


def bind(path: Path) -> list[Mount]:
    path.mkdir(exist_ok=True)
    return [Mount("bind", str(path), ("rbind", "rw"))]


def walked(mounts: Sequence[Mount]) -> list[Mount]:
    """The same mounts, with an option that keeps the differ from reading the upper directory alone."""
    return [Mount(each.type, each.source, (*each.options, "redirect_dir=on")) for each in mounts]


FILE, OTHER = Attributes(), Attributes(mode=0o4755, uid=5, seconds=-3, whole=False)


@FULL if PROVE else SHORT
@example([Step("file", b"a/a", b"1")], [Step("touch", b"a", attributes=OTHER)])
@example([Step("file", b"a", b"1"), Step("link", b"b", b"a")], [Step("attributes", b"a", attributes=OTHER)])
@example(
    [Step("file", b"a", b"1"), Step("link", b"b", b"a")], [Step("link", b"c", b"a"), Step("remove", b"a")]
)
@example(
    [Step("folder", b"a"), Step("file", b"a/b", b"1")], [Step("file", b"a", b"2"), Step("file", b"a/c", b"3")]
)
@example(  # what a directory had before it was made anew is not kept
    [Step("folder", b"a/a", attributes=Attributes(xattrs=((b"user.empty", b""),)))],
    [Step("file", b"a"), Step("folder", b"a/a/a")],
)
@example(  # below an opaque directory no other one has a mark
    [Step("folder", b"a/a/a")], [Step("folder", b"a"), Step("file", b"a/a/b")]
)
@given(TREES, CHANGES)
def test_a_layer_applied_again_gives_the_tree_it_was_made_of(
    workshop: Workshop, making: list[Step], changing: list[Step]
) -> None:
    async def job(root: Path) -> None:
        (root / "snapshots").mkdir()
        overlay = OverlaySnapshotter(root / "snapshots", overlay_options())
        await inside(await overlay.prepare("making", ""), lambda tree: Tree(tree).do(making))
        await overlay.commit("made", "making")
        lower = await overlay.view("lower", "made")
        upper = await overlay.prepare("changing", "made")
        await inside(upper, lambda tree: Tree(tree, len(making)).do(changing))
        before, after = await inside(lower, below), await inside(upper, below)

        # A whole tree.
        plain = root / "plain"
        whole = await workshop.diff([], lower)
        await workshop.apply(whole, bind(plain))
        assert below(plain) == before
        taken = await inside(lower, blocks)
        assert {name: size for name, size in blocks(plain).items() if size > taken[name] + 16} == {}
        assert await workshop.diff([], bind(plain)) == whole

        # Changes to it, on the two ways of finding them, twice each.
        changes = await workshop.diff(lower, upper)
        assert await workshop.diff(lower, upper) == changes
        assert await workshop.diff(lower, walked(upper)) == changes

        # Onto a directory that has the layers below in it, and onto an upper directory of its own.
        await workshop.apply(changes, bind(plain))
        assert below(plain) == after
        again = await overlay.prepare("again", "made")
        await workshop.apply(changes, again)
        assert await inside(again, below) == after
        # And nothing is left to tell.
        assert await workshop.diff(upper, bind(plain)) == bytes(1024)
        await overlay.aclose()

    workshop.do(job)


def test_a_name_that_means_something_else_in_a_layer_is_refused(workshop: Workshop) -> None:
    async def job(root: Path) -> None:
        (root / "tree/d").mkdir(parents=True)
        (root / "tree/d/.wh.x").touch()
        with pytest.raises(FailedPrecondition, match=r"'d/\.wh\.x' cannot go into a layer"):
            await workshop.diff([], bind(root / "tree"))

    workshop.do(job)


def test_what_this_machines_policy_puts_on_files_is_not_of_the_tree(workshop: Workshop) -> None:
    async def job(root: Path) -> None:
        for name in ("plain", "labelled"):
            (root / name).mkdir()
            (root / name / "file").touch()
            os.utime(root / name / "file", (0, 0))
        os.setxattr(root / "labelled/file", "security.selinux", b"system_u:object_r:etc_t:s0")
        assert await workshop.diff([], bind(root / "labelled")) == await workshop.diff(
            [], bind(root / "plain")
        )

    workshop.do(job)


def test_content_that_was_changed_behind_its_time_is_found_in_an_upper_directory(workshop: Workshop) -> None:
    async def job(root: Path) -> None:
        def rewrite(tree: Path) -> None:
            (tree / "file").write_text("two")
            os.utime(tree / "file", ns=(0, 1_000_000_001))

        def write(tree: Path) -> None:
            (tree / "file").write_text("one")
            os.utime(tree / "file", ns=(0, 1_000_000_001))

        (root / "snapshots").mkdir()
        overlay = OverlaySnapshotter(root / "snapshots", overlay_options())
        await inside(await overlay.prepare("making", ""), write)
        await overlay.commit("made", "making")
        upper = await overlay.prepare("changing", "made")
        await inside(upper, rewrite)
        assert b"two" in await workshop.diff(await overlay.view("lower", "made"), upper)
        await overlay.aclose()

    workshop.do(job)
