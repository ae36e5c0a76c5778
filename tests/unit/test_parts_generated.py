"""Generated layers and trees: what a stack of layers shows, and whether a tree survives the round trip."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from orlop_plugins.erofs.differ import ErofsDiffer
from orlop_plugins.erofs.image import probe
from orlop_plugins.erofs.snapshotter import ErofsSnapshotter
from orlop_plugins.overlayfs.snapshotter import OverlaySnapshotter
from orlop_plugins.tar.differ import TarDiffer
from orlop_plugins.tar.limits import Limits
from orlop_plugins.tar.pool import WorkerPool
from orlop_plugins.vfs.snapshotter import VfsSnapshotter
from orlopd.plugin.diff import Differ
from orlopd.plugin.overlay import overlay_options
from orlopd.plugin.snapshots import REBASE_LABEL, TARGET_LABEL, Snapshotter
from orlopd.plugin.values import Descriptor, sha256
from orlopd.testing.archives import Member, archive, folder
from orlopd.testing.blobs import MemoryBlob
from orlopd.testing.differ import listing
from orlopd.testing.snapshotter import inside

TAR = "application/vnd.oci.image.layer.v1.tar"
GZIP = f"{TAR}+gzip"
PLACE = "/dev/shm" if Path("/dev/shm").is_dir() else None  # many small durable writes; a disk takes its time

# --- Stacks of layers ---------------------------------------------------------------------------------------

NAMES = [
    *("a", "b", "a/a", "a/b", "b/a", "b/b"),
    *("a/a/a", "a/a/b", "a/b/a", "b/a/a", "b/b/b"),
]


@dataclass
class Layer:
    """A layer and what a stack with it on top shows: file contents by name, None for a directory."""

    shown: dict[str, str | None]
    members: list[Member] = field(default_factory=list[Member])

    def __post_init__(self) -> None:
        self.lower = dict(self.shown)
        self.own: dict[str, str | None] = {}

    def put(self, name: str, content: str | None) -> None:
        """Have a file or a directory, in the place of whatever is below; parents may be implied."""
        if name in self.own or any(self.shown.get(each, None) is not None for each in parents(name)):
            return
        if content is not None or self.shown.get(name, "") is not None:
            self._drop(name)
        for each in (*parents(name), name):
            self.shown.setdefault(each, None)
            self.own.setdefault(each, None)
        self.shown[name] = self.own[name] = content
        mode = 0o700 + len(name)
        self.members.append(
            folder(name, mode, mtime=len(name)) if content is None else Member(name, content.encode())
        )

    def hide(self, name: str) -> None:
        """Hide what is below at ``name``, be there something or not."""
        if any(self.own.get(each, None) is not None for each in parents(name)):
            return
        self._drop(name)
        head, _, tail = name.rpartition("/")
        self.members.append(Member(f"{head}/.wh.{tail}" if head else f".wh.{tail}"))

    def empty(self, name: str) -> None:
        """Hide what is below inside ``name``, or everything for ""."""
        if name and (self.own.get(name, "") is not None):
            return
        for each in [each for each in self.shown if not name or each.startswith(f"{name}/")]:
            if each not in self.own:
                del self.shown[each]
        self.members.append(Member(f"{name}/.wh..wh..opq" if name else ".wh..wh..opq"))

    def _drop(self, name: str) -> None:
        for each in [each for each in self.shown if each == name or each.startswith(f"{name}/")]:
            if each not in self.own:
                del self.shown[each]


def parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


STEPS = st.tuples(st.sampled_from(["file", "file", "folder", "hide", "empty"]), st.sampled_from(["", *NAMES]))
STACKS = st.lists(st.lists(STEPS, min_size=1, max_size=8), min_size=2, max_size=4)
Stack = list[list[tuple[str, str]]]


def build(stack: Stack) -> tuple[list[bytes], dict[str, str | None]]:
    """The archives of a stack, and what it shows."""
    shown: dict[str, str | None] = {}
    archives: list[bytes] = []
    for number, steps in enumerate(stack):
        layer = Layer(shown)
        for what, name in steps:
            if what == "empty":
                layer.empty(name)
            elif not name:
                continue
            elif what == "hide":
                layer.hide(name)
            else:
                layer.put(name, f"{number} {name}" if what == "file" else None)
        shown = layer.shown
        archives.append(archive(layer.members))
    return archives, shown


@dataclass(frozen=True)
class Workshop:
    """Differs that all examples share, and the loop they live in."""

    portal: BlockingPortal
    differ: TarDiffer
    imager: ErofsDiffer
    loop: bool
    """Whether EROFS images take a loop device."""

    def do(self, job: Callable[[Path], Awaitable[None]]) -> None:
        """Do a job with a folder of its own."""
        with tempfile.TemporaryDirectory(dir=PLACE) as name:
            self.portal.call(job, Path(name))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    log = logging.getLogger("test")
    with start_blocking_portal() as portal:
        differ = TarDiffer(WorkerPool(2, log), tmp_path_factory.mktemp("scratch"), Limits())
        images = WorkerPool(2, log, zygote="orlop_plugins.erofs.worker")
        imager = ErofsDiffer(images, tmp_path_factory.mktemp("scratch"), Limits())
        with tempfile.TemporaryDirectory(dir=PLACE) as name:
            loop = probe(Path(name))
        yield Workshop(portal, differ, imager, loop)
        portal.call(differ.aclose)
        portal.call(imager.aclose)


async def one_by_one(differ: Differ, snapshotter: Snapshotter, archives: Sequence[bytes]) -> str:
    parent = ""
    for number, data in enumerate(archives):
        mounts = await snapshotter.prepare(f"key-{number}", parent)
        await differ.apply(Descriptor(TAR, sha256(data), len(data)), MemoryBlob(data), mounts)
        parent = f"layer-{number}"
        await snapshotter.commit(parent, f"key-{number}")
    return parent


async def side_by_side(
    differ: Differ, snapshotter: OverlaySnapshotter | ErofsSnapshotter, archives: Sequence[bytes]
) -> str:
    """Unpack the topmost layer first, and each before those below it are there."""
    for number, data in reversed(list(enumerate(archives))):
        labels = {TARGET_LABEL: str(number), **({REBASE_LABEL: "true"} if number else {})}
        mounts = await snapshotter.prepare(f"side-{number}", "", labels)
        await differ.apply(Descriptor(TAR, sha256(data), len(data)), MemoryBlob(data), mounts)
    await snapshotter.commit("moved-0", "side-0")
    for number in range(1, len(archives)):
        await snapshotter.commit_onto(f"moved-{number}", f"side-{number}", f"moved-{number - 1}")
    return f"moved-{len(archives) - 1}"


def contents(shown: dict[str, Any]) -> dict[str, str | None]:
    return {
        name: None if stat.S_ISDIR(facts[0]) else facts[4].decode()
        for name, facts in shown.items()
        if name != "."
    }


def timeless(shown: dict[str, Any], since: float) -> dict[str, Any]:
    """Without the times of directories that no archive told of: now, or none in an image."""
    return {
        name: (*facts[:3], None if facts[3] >= since * 1e9 or not facts[3] else facts[3], *facts[4:])
        for name, facts in shown.items()
    }


@settings(max_examples=1000 if os.environ.get("ORLOP_PROVE") else 25, phases=[Phase.explicit, Phase.generate])
@example([[("file", "a/a/a")], [("hide", "a/a"), ("file", "a/a/b")], [("empty", ""), ("folder", "a")]])
@example([[("file", "a")], [("hide", "a/b")], [("folder", "a"), ("empty", "a")]])
@example([[("file", "a/a")], [("hide", "a")], [("hide", "a/a")]])
@example([[("file", "a/a/a")], [("folder", "a"), ("empty", "a")], [("hide", "a/a/a")]])
@example([[("file", "a")], [("empty", ""), ("hide", "a/b")]])
@example([[("folder", "a"), ("file", "b")], [("empty", ""), ("hide", "a/a/b"), ("file", "b/a")]])
@example([[("folder", "b")], [("folder", "b/b"), ("empty", "")]])
@given(STACKS)
def test_a_stack_shows_the_same_however_it_is_unpacked(workshop: Workshop, stack: Stack) -> None:
    archives, wanted = build(stack)
    differ = workshop.differ

    async def job(root: Path) -> None:
        since = time.time() - 1
        for each in ("overlay", "vfs", "erofs"):
            (root / each).mkdir()
        overlay = OverlaySnapshotter(root / "overlay", overlay_options())
        vfs = VfsSnapshotter(root / "vfs")
        erofs = ErofsSnapshotter(root / "erofs", overlay_options(), loop=workshop.loop)
        ways: list[tuple[Snapshotter, Awaitable[str]]] = [
            (vfs, one_by_one(differ, vfs, archives)),
            (overlay, one_by_one(differ, overlay, archives)),
            (overlay, side_by_side(differ, overlay, archives)),
            (erofs, one_by_one(differ, erofs, archives)),
            (erofs, side_by_side(workshop.imager, erofs, archives)),
        ]
        seen = [
            await inside(await snapshotter.view(f"view-{number}", await way), listing)
            for number, (snapshotter, way) in enumerate(ways)
        ]
        for each in (overlay, vfs, erofs):
            await each.aclose()
        for shown in seen:
            assert contents(shown) == wanted
        for shown in seen[2:]:
            assert timeless(shown, since) == timeless(seen[1], since)

    workshop.do(job)
