"""Generated trees and changes to them: a layer made of them and applied again gives what was there."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from orlop_plugins.overlayfs.snapshotter import OverlaySnapshotter
from orlop_plugins.tar.differ import TarDiffer
from orlop_plugins.tar.limits import Limits
from orlop_plugins.tar.pool import WorkerPool
from orlopd.plugin.errors import FailedPrecondition
from orlopd.plugin.files import remove_tree
from orlopd.plugin.overlay import overlay_options
from orlopd.plugin.values import Descriptor, Mount, sha256
from orlopd.testing.blobs import MemoryBlob, MemoryIngest
from orlopd.testing.differ import below
from orlopd.testing.snapshotter import inside

# Paths are bytes: what is in a tree need not be text.
# ruff: noqa: PTH101, PTH102, PTH104, PTH123, PTH211

TAR = "application/vnd.oci.image.layer.v1.tar"
NANO = 10**9
PROVE = bool(os.environ.get("ORLOP_PROVE"))
FULL = settings(max_examples=1000)
SHORT = settings(max_examples=60, derandomize=True, phases=[Phase.explicit, Phase.generate])

# --- What trees are made of ---------------------------------------------------------------------------------

COMMON = [b"a", b"b", b"c"]
ODD = [
    *(b"\xff\xfe", "ünï".encode(), b"new\nline", b"n" * 255, b"-rf", b"a=b %d", b".wh", b" ", b"...", b"\\"),
    *(b"x" * 99, b"x" * 100, b"x" * 101, b"GNUSparseFile.0", b".wh"),
]
NAMES = st.one_of(st.sampled_from(COMMON), st.sampled_from(COMMON), st.sampled_from([*COMMON, *ODD]))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)

# vfs_ns_cap_data of linux/capability.h: CAP_NET_RAW, of the initial user namespace and of another one.
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
CAPABILITY_3 = struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, 1000)
# posix_acl_xattr.h: version 2; owner rwx, user 1000 r-x, group r-x, mask r-x, others ---
NOBODY = (1 << 32) - 1
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 7, NOBODY), (2, 5, 1000), (4, 5, NOBODY), (16, 5, NOBODY), (32, 0, NOBODY))
)
XATTRS = [
    *(
        (b"user.empty", b""),
        (b"user.bytes", bytes(range(256))),
        (b"user.a=b %3D %", b"="),
        (b"user.\xff", b"x\n"),
    ),
    *((b"security.capability", CAPABILITY), (b"security.capability", CAPABILITY_3)),
    *((b"trusted.of-root", b"t"), (b"user.colour", b"blue"), (b"user.colour", b"red")),
    (b"system.posix_acl_access", ACL),
]


@dataclass(frozen=True)
class Attributes:
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    seconds: int = 1_500_000_000
    whole: bool = True
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


ATTRIBUTES = st.builds(
    Attributes,
    mode=st.sampled_from([0, 0o644, 0o755, 0o4755, 0o2711, 0o1777, 0o7777]),
    uid=st.sampled_from([0, 0, 1, 1000, 0o7777777, 0o10000000, (1 << 32) - 2]),
    gid=st.sampled_from([0, 0, 5, 0o10000000, (1 << 32) - 2]),
    seconds=st.one_of(
        st.sampled_from([0, -1, -(1 << 31), (1 << 31) - 1, 0o77777777777]),
        st.integers(min_value=-(1 << 31), max_value=1 << 33),
    ).filter(lambda seconds: seconds < 1 << 34),
    whole=st.booleans(),
    xattrs=st.lists(st.sampled_from(XATTRS), max_size=2).map(tuple),
)


@dataclass(frozen=True)
class Step:
    """One thing done to a tree. ``other`` is a second path, a symlink's target, or bytes of a file."""

    what: str
    path: bytes
    other: bytes = b""
    attributes: Attributes = Attributes()
    holes: tuple[int, ...] = ()


def steps(*whats: str) -> st.SearchStrategy[Step]:
    return st.one_of(
        st.builds(Step, st.sampled_from(whats), PATHS, PATHS, ATTRIBUTES),
        st.builds(Step, st.just("file"), PATHS, st.binary(max_size=40), ATTRIBUTES),
        st.builds(
            *(Step, st.just("file"), PATHS, st.binary(min_size=1, max_size=9), ATTRIBUTES),
            st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True).map(sorted).map(tuple),
        ),
        st.builds(
            *(
                Step,
                st.just("symlink"),
                PATHS,
                st.sampled_from([b"a", b"\xff" * 9, b"/../" * 400]),
                ATTRIBUTES,
            )
        ),
    )


MAKING = ["folder", "folder", "fifo", "char", "block", "link", "link", "file", "symlink"]
CHANGING = ["remove", "remove", "attributes", "append", "rename", "touch", "anew"]
TREES = st.lists(steps(*MAKING[:-2]), max_size=12)
CHANGES = st.lists(steps(*MAKING[:-2], *CHANGING, *CHANGING), max_size=8)


class Tree:
    """Carries out steps below a folder. Where one makes no sense, nothing happens."""

    def __init__(self, root: Path, began: int = 0) -> None:
        self._root = os.fsencode(root)
        self._count = began

    def do(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._count += 1
            if step.what in MAKING or self._has(step.path):
                self._step(step, self._root + b"/" + step.path)

    def _has(self, name: bytes) -> bool:
        """Whether it is there, not through a symlink."""
        path = self._root
        *parents, last = name.split(b"/")
        for part in parents:
            path += b"/" + part
            if not os.path.lexists(path) or not stat.S_ISDIR(os.lstat(path).st_mode):
                return False
        return os.path.lexists(path + b"/" + last)

    def _step(self, step: Step, path: bytes) -> None:
        if step.what == "remove":
            remove_tree(path)
        elif step.what == "attributes":
            self._attributes(path, step.attributes)
        elif step.what == "touch":
            os.utime(path, ns=(0, self._time(step.attributes)), follow_symlinks=False)
        elif step.what == "append":
            if stat.S_ISREG(os.lstat(path).st_mode):
                with open(path, "ab") as file:
                    file.write(b"appended")
        elif step.what == "anew":
            if stat.S_ISDIR(os.lstat(path).st_mode):
                remove_tree(path)
                os.mkdir(path)
                self._attributes(path, step.attributes)
        elif step.what == "rename":
            if not (step.other + b"/").startswith(step.path + b"/") and not step.path.startswith(
                step.other + b"/"
            ):
                with contextlib.suppress(OSError):  # EXDEV: a directory of the layers below
                    os.rename(path, self._place(step.other))
        else:
            self._make(step, path)

    def _make(self, step: Step, path: bytes) -> None:
        if step.what == "link":
            target = self._root + b"/" + step.other
            if not self._has(step.other) or stat.S_ISDIR(os.lstat(target).st_mode):
                return
            if (step.path + b"/").startswith(step.other + b"/") or step.other.startswith(step.path + b"/"):
                return
            self._place(step.path)
            os.link(target, path, follow_symlinks=False)
            return
        self._place(step.path)
        if step.what == "folder":
            os.mkdir(path)
        elif step.what == "symlink":
            os.symlink(step.other, path)
        elif step.what == "fifo":
            os.mkfifo(path)
        elif step.what == "char":
            os.mknod(path, stat.S_IFCHR, os.makedev(4095, (1 << 20) - 1))
        elif step.what == "block":
            os.mknod(path, stat.S_IFBLK, os.makedev(7, 300))
        else:
            with open(path, "xb") as file:
                for hole in step.holes:
                    file.seek(hole * 100_000 + 50_000)
                    file.write(step.other)
                if step.holes:
                    file.truncate(400_000)
                else:
                    file.write(step.other)
        self._attributes(path, step.attributes)

    def _place(self, name: bytes) -> bytes:
        """Make room for something at ``name``, and directories on the way."""
        path = self._root
        *parents, last = name.split(b"/")
        for part in parents:
            path += b"/" + part
            if not os.path.lexists(path) or not stat.S_ISDIR(os.lstat(path).st_mode):
                remove_tree(path)
                os.mkdir(path)
        path += b"/" + last
        remove_tree(path)
        return path

    def _attributes(self, path: bytes, wanted: Attributes) -> None:
        os.chown(path, wanted.uid, wanted.gid, follow_symlinks=False)
        kind = stat.S_IFMT(os.lstat(path).st_mode)
        for name, value in wanted.xattrs:
            if name.startswith(b"trusted.") or kind == stat.S_IFREG or (
                kind == stat.S_IFDIR and not name.startswith(b"security.")
            ):  # fmt: skip
                os.setxattr(path, name, value, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(path, wanted.mode)
        os.utime(path, ns=(0, self._time(wanted)), follow_symlinks=False)

    def _time(self, wanted: Attributes) -> int:
        # No two steps give the same fraction: what was changed without a trace is not looked for.
        return wanted.seconds * NANO + (0 if wanted.whole else 500_000_000 + self._count)


def blocks(root: Path) -> dict[str, int]:
    """How much of the disk the files have, by name."""
    return {
        str(path.relative_to(root)): path.lstat().st_blocks
        for path in root.rglob("*")
        if stat.S_ISREG(path.lstat().st_mode)
    }


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
