"""The differ over the real snapshotters: an overlay's marks, its shortcut, and what happens to workers."""

from __future__ import annotations

import logging
import os
import signal
import stat
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from orlop_plugins.overlayfs.snapshotter import OverlaySnapshotter
from orlop_plugins.tar.differ import TarDiffer
from orlop_plugins.tar.limits import Limits
from orlop_plugins.tar.pool import WorkerPool
from orlop_plugins.vfs.snapshotter import VfsSnapshotter
from orlopd.plugin.errors import FailedPrecondition, ResourceExhausted, Unavailable
from orlopd.plugin.overlay import overlay_options
from orlopd.plugin.snapshots import Snapshotter
from orlopd.plugin.values import Descriptor, Mount, sha256
from orlopd.testing.archives import Member, archive, folder, gzipped, header, padded, symlink
from orlopd.testing.blobs import MemoryBlob, MemoryIngest
from orlopd.testing.differ import below, listing
from orlopd.testing.snapshotter import inside, write

pytestmark = pytest.mark.anyio

TAR = "application/vnd.oci.image.layer.v1.tar"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def limits() -> Limits:
    return Limits(entries=2000, size=64 << 20, ratio=50, ratio_from=1 << 20)


@pytest.fixture
async def differ(tmp_path: Path, limits: Limits, anyio_backend: Any) -> AsyncGenerator[TarDiffer]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    differ = TarDiffer(WorkerPool(2, logging.getLogger("test")), scratch, limits)
    yield differ
    await differ.aclose()


@pytest.fixture(params=["overlayfs", "vfs"])
async def snapshotter(
    request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: Any
) -> AsyncGenerator[Snapshotter]:
    root = tmp_path / "snapshots"
    root.mkdir()
    made = (
        OverlaySnapshotter(root, overlay_options()) if request.param == "overlayfs" else VfsSnapshotter(root)
    )
    yield made
    await made.aclose()


async def apply(differ: TarDiffer, mounts: Sequence[Mount], members: Sequence[Member | bytes]) -> Descriptor:
    data = archive(members)
    return await differ.apply(Descriptor(TAR, sha256(data), len(data)), MemoryBlob(data), mounts)


async def layers(
    differ: TarDiffer, snapshotter: Snapshotter, *stack: Sequence[Member | bytes]
) -> dict[str, Any]:
    """What a view of these layers shows."""
    parent = ""
    for number, members in enumerate(stack):
        await apply(differ, await snapshotter.prepare(f"key-{number}", parent), members)
        parent = f"layer-{number}"
        await snapshotter.commit(parent, f"key-{number}")
    return await inside(await snapshotter.view("view", parent), listing)


BASE: list[Member | bytes] = [
    folder("etc", 0o711, uid=3, gid=4, mtime=1000),
    Member("etc/a", b"1"),
    Member("etc/b", b"1"),
    folder("d", 0o1777, mtime=2000),
    Member("d/x", b"1"),
    folder("d/sub", mtime=3000),
    Member("d/sub/y", b"1"),
    Member("top", b"1"),
]


@pytest.mark.parametrize(
    ("upper", "names"),
    [
        ([Member("etc/.wh.a")], ["d", "d/sub", "d/sub/y", "d/x", "etc", "etc/b", "top"]),
        ([Member(".wh.d"), Member(".wh.top")], ["etc", "etc/a", "etc/b"]),
        (
            [Member("d/.wh..wh..opq"), Member("d/new", b"2")],
            ["d", "d/new", "etc", "etc/a", "etc/b", "top"],
        ),
        (
            [Member("d/new", b"2"), Member("d/.wh..wh..opq")],
            ["d", "d/new", "etc", "etc/a", "etc/b", "top"],
        ),
        ([Member(".wh..wh..opq"), Member("only", b"2")], ["only"]),
        ([Member("only", b"2"), Member(".wh..wh..opq")], ["only"]),
        (
            [Member(".wh.d"), folder("d"), Member("d/new", b"2")],
            ["d", "d/new", "etc", "etc/a", "etc/b", "top"],
        ),
        (
            [folder("d"), Member("d/new", b"2"), Member(".wh.d")],
            ["d", "d/new", "etc", "etc/a", "etc/b", "top"],
        ),
        ([Member(".wh.d"), Member("d/new", b"2")], ["d", "d/new", "etc", "etc/a", "etc/b", "top"]),
        ([Member("d", b"file")], ["d", "etc", "etc/a", "etc/b", "top"]),
        ([Member("d", b"file"), folder("d")], ["d", "etc", "etc/a", "etc/b", "top"]),
        ([folder("top"), Member("top/z", b"2")], None),
        ([Member("etc/.wh.missing"), Member("none/.wh.missing")], None),
        ([Member("d/sub/deep/er/z", b"2")], None),
    ],
)
async def test_layers_show_the_same_on_every_snapshotter(
    differ: TarDiffer,
    snapshotter: Snapshotter,
    upper: Sequence[Member],
    names: list[str] | None,
) -> None:
    shown = await layers(differ, snapshotter, BASE, upper)
    del shown["."]
    if names is not None:
        assert sorted(shown) == names
    # What the upper layer says nothing of is as it was, times included.
    if "etc" in shown:
        mode, uid, gid, mtime = shown["etc"][:4]
        assert (stat.S_IMODE(mode), uid, gid, mtime) == (0o711, 3, 4, 1000 * 10**9)
    if "d/sub" in shown:
        assert shown["d/sub"][3] == 3000 * 10**9


async def test_a_directory_that_only_holds_a_change_keeps_its_attributes(
    differ: TarDiffer, snapshotter: Snapshotter
) -> None:
    base = [Member("d", type=b"5", mode=0o2750, uid=5, gid=6, mtime=9, pax={b"SCHILY.xattr.user.a": b"1"})]
    shown = await layers(differ, snapshotter, base, [Member("d/new", b"2")])
    mode, uid, gid, mtime, _, xattrs, _ = shown["d"]
    assert (stat.S_IMODE(mode), uid, gid, mtime, xattrs) == (0o2750, 5, 6, 9 * 10**9, {"user.a": b"1"})


async def test_a_parent_that_is_a_symlink_of_the_same_layer(
    differ: TarDiffer, snapshotter: Snapshotter
) -> None:
    members = [
        symlink("bin", "/usr/bin"),
        Member("bin/tool", b"1"),
        symlink("up", "../../usr"),
        Member("up/x", b"2"),
    ]
    shown = await layers(differ, snapshotter, members)
    assert sorted(shown) == [".", "bin", "up", "usr", "usr/bin", "usr/bin/tool", "usr/x"]


def sequence(*jobs: Callable[[Path], object]) -> Callable[[Path], None]:
    """One job after the other."""

    def job(root: Path) -> None:
        for each in jobs:
            each(root)

    return job


NO_D: dict[str, str | None] = {"d/x": None, "d/sub/y": None, "d/sub": None, "d": None}
CHANGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda root: None,
    "files": write({"etc/a": "changed", "etc/new": "2", "top": None}),
    "a directory gone": write(NO_D),
    "deep below": sequence(write({"d/x": None}), write({"d/sub/y": "2", "deep/er/still": "3"})),
    "a file's mode": lambda root: (root / "top").chmod(0o4755),
    "a directory's mode": lambda root: (root / "d").chmod(0o700),
    "a link to what was there": lambda root: os.link(root / "top", root / "etc" / "top-too"),
    "an attribute": lambda root: os.setxattr(root / "d", "user.a", b"1"),
    "a time": lambda root: (root / "etc/a").touch(),
    "a directory anew": sequence(write(NO_D), write({"d/fresh": "2"})),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("snapshotter", ["overlayfs"], indirect=True)
async def test_the_shortcut_over_an_upper_directory_writes_what_walking_writes(
    differ: TarDiffer, snapshotter: Snapshotter, change: Callable[[Path], object]
) -> None:
    await layers(differ, snapshotter, BASE)
    lower = await snapshotter.view("lower", "layer-0")
    upper = await snapshotter.prepare("upper", "layer-0")
    await inside(upper, change)
    short, walked = MemoryIngest(), MemoryIngest()
    one = await differ.diff(lower, upper, TAR, short)
    # An option that overlay ignores keeps the differ from knowing what is in the upper directory.
    far = [Mount(item.type, item.source, (*item.options, "redirect_dir=on")) for item in upper]
    two = await differ.diff(lower, far, TAR, walked)
    assert short.data == walked.data
    assert one == two
    # And applied again it gives what was there.
    again = await snapshotter.prepare("again", "layer-0")
    await apply(differ, again, [bytes(short.data)[:-1024]])
    assert await inside(again, below) == await inside(upper, below)


@pytest.mark.parametrize("snapshotter", ["overlayfs"], indirect=True)
async def test_a_read_only_view_is_not_applied_to(differ: TarDiffer, snapshotter: Snapshotter) -> None:
    await layers(differ, snapshotter, BASE, [Member("x", b"1")])
    for parent in ("layer-0", "layer-1"):
        with pytest.raises(FailedPrecondition):
            await apply(differ, await snapshotter.view(f"ro-{parent}", parent), [])


# Limits, each with one clear error.


async def test_too_many_entries(differ: TarDiffer, tmp_path: Path) -> None:
    with pytest.raises(ResourceExhausted, match="more than 2000 entries"):
        await apply(differ, bind(tmp_path), [Member(f"{number}") for number in range(2001)])


async def test_too_many_bytes(differ: TarDiffer, tmp_path: Path) -> None:
    with pytest.raises(ResourceExhausted, match="more than 67108864 bytes unpacked"):
        await apply(differ, bind(tmp_path), [Member(name, os.urandom(1 << 20) * 33) for name in "ab"])


async def test_too_good_a_ratio(differ: TarDiffer, tmp_path: Path) -> None:
    data = gzipped(archive([Member("zeros", bytes(32 << 20))]))
    with pytest.raises(ResourceExhausted, match="more than 50 times its size"):
        await differ.apply(Descriptor(TAR, sha256(data), len(data)), MemoryBlob(data), bind(tmp_path))


async def test_a_sparse_file_larger_than_any_layer(differ: TarDiffer, tmp_path: Path) -> None:
    pax = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"%d" % (1 << 60)}
    with pytest.raises(ResourceExhausted):
        await apply(differ, bind(tmp_path), [Member("x", padded(b"1\n0\n0\n"), pax=pax)])


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
async def test_huge_extended_headers(differ: TarDiffer, tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ResourceExhausted, match="extended headers"):
        await apply(differ, bind(tmp_path), [header(b"p", kind, 1 << 40)])


async def test_an_endless_row_of_extended_headers(differ: TarDiffer, tmp_path: Path) -> None:
    with pytest.raises(ResourceExhausted, match="extended headers"):
        await apply(differ, bind(tmp_path), [(header(b"p", b"L", 100) + padded(b"x" * 100)) * 5000])


# Workers.


def bind(tmp_path: Path) -> list[Mount]:
    (tmp_path / "layer").mkdir(exist_ok=True)
    return [Mount("bind", str(tmp_path / "layer"), ("rbind",))]


class Stuck(MemoryBlob):
    """Gives a beginning and then nothing."""

    async def read_at(self, offset: int, size: int) -> bytes:
        if offset:
            await anyio.sleep_forever()
        return self._data[:1024]


def workers() -> list[int]:
    """The processes below this one that are confined to some root."""
    found: list[int] = []
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                root = (entry / "root").readlink()
            except OSError:
                continue
            if str(root) != "/":
                found.append(int(entry.name))
    return [pid for pid in found if parents.get(parents.get(pid, 0)) == os.getpid()]


async def stuck_worker() -> int:
    with anyio.fail_after(30):
        while not (pids := await anyio.to_thread.run_sync(workers)):  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.02)
    return pids[0]


async def test_a_worker_that_is_killed_is_an_error_and_no_more(differ: TarDiffer, tmp_path: Path) -> None:
    data = archive([Member("a", b"x" * 100_000)])

    async def doomed() -> None:
        with pytest.raises(Unavailable, match="ended unexpectedly"):
            await differ.apply(Descriptor(TAR, sha256(data), len(data)), Stuck(data), bind(tmp_path))

    async with anyio.create_task_group() as group:
        group.start_soon(doomed)
        os.kill(await stuck_worker(), signal.SIGKILL)
    await apply(differ, bind(tmp_path), [Member("b", b"1")])


async def test_workers_go_with_the_process_that_forks_them_which_is_started_again(
    differ: TarDiffer, tmp_path: Path
) -> None:
    data = archive([Member("a", b"x" * 100_000)])
    await apply(differ, bind(tmp_path), [])

    async def doomed() -> None:
        with pytest.raises(Unavailable):
            await differ.apply(Descriptor(TAR, sha256(data), len(data)), Stuck(data), bind(tmp_path))

    async with anyio.create_task_group() as group:
        group.start_soon(doomed)
        pid = await stuck_worker()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])  # noqa: ASYNC240
        os.kill(parent, signal.SIGKILL)
    assert await anyio.to_thread.run_sync(workers) == []
    await apply(differ, bind(tmp_path), [Member("b", b"1")])


async def test_more_jobs_than_workers(differ: TarDiffer, tmp_path: Path) -> None:
    async def one(number: int) -> None:
        path = tmp_path / f"layer-{number}"
        path.mkdir()
        await apply(differ, [Mount("bind", str(path), ("rbind",))], [Member("a", b"%d" % number)])
        assert (path / "a").read_text() == str(number)

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(one, number)
