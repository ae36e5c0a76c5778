"""Images written from archives and directories: what the kernel shows of them, and what other tools say."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from orlop_plugins.erofs.differ import ErofsDiffer
from orlop_plugins.erofs.image import IMAGE, make, probe, put_on
from orlop_plugins.erofs.nodes import Marks
from orlop_plugins.erofs.snapshotter import ErofsSnapshotter
from orlop_plugins.erofs.unpack import Unpacker
from orlop_plugins.tar.headers import REG, Entry
from orlop_plugins.tar.limits import Limits
from orlop_plugins.tar.pool import WorkerPool
from orlopd.plugin.errors import (
    FailedPrecondition,
    InvalidArgument,
    OrlopError,
    ResourceExhausted,
    Unimplemented,
)
from orlopd.plugin.mount import mounted
from orlopd.plugin.overlay import overlay_options
from orlopd.plugin.snapshots import REBASE_LABEL, TARGET_LABEL
from orlopd.plugin.values import Descriptor, Mount, sha256
from orlopd.testing.archives import Member, archive, folder, link, symlink
from orlopd.testing.blobs import MemoryBlob, MemoryIngest
from orlopd.testing.differ import below, listing, rich_tree
from orlopd.testing.snapshotter import inside, tree, write

pytestmark = pytest.mark.anyio

TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER = {TARGET_LABEL: "chain"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def erofs(tmp_path: Path) -> AsyncIterator[ErofsSnapshotter]:
    root = tmp_path / "erofs"
    root.mkdir()
    part = ErofsSnapshotter(root, overlay_options())
    yield part
    await part.aclose()


@pytest.fixture
async def differ(tmp_path: Path) -> AsyncIterator[ErofsDiffer]:
    async for part in make_differ(tmp_path, Limits()):
        yield part


async def make_differ(root: Path, limits: Limits) -> AsyncIterator[ErofsDiffer]:
    scratch = root / "scratch"
    scratch.mkdir(exist_ok=True)
    pool = WorkerPool(2, logging.getLogger("test"), zygote="orlop_plugins.erofs.worker")
    part = ErofsDiffer(pool, scratch, limits)
    yield part
    await part.aclose()


async def apply(differ: ErofsDiffer, mounts: Any, data: bytes) -> Descriptor:
    return await differ.apply(Descriptor(TAR, sha256(data), len(data)), MemoryBlob(data), mounts)


async def layer(
    differ: ErofsDiffer, erofs: ErofsSnapshotter, name: str, data: bytes, parent: str = ""
) -> str:
    """A committed layer."""
    labels = {**LAYER, **({REBASE_LABEL: "true"} if parent else {})}
    await apply(differ, await erofs.prepare(f"{name}-key", "", labels), data)
    if parent:
        await erofs.commit_onto(name, f"{name}-key", parent)
    else:
        await erofs.commit(name, f"{name}-key")
    return name


def image_of(erofs: Path, number: int) -> Path:
    return erofs / "snapshots" / str(number) / IMAGE


def check_image(path: Path) -> None:
    """What erofs-utils say of it."""
    done = subprocess.run(["fsck.erofs", path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(["dump.erofs", "-S", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def shown(path: Path) -> dict[str, Any]:
    with mounted([Mount("erofs", str(path), ("ro",))]) as root:
        return listing(root)


def test_where_the_kernel_refuses_files_images_are_shown_by_loop_devices(tmp_path: Path) -> None:
    with mounted([Mount("tmpfs", "tmpfs", ("size=4m",))], folder=tmp_path) as memory:
        assert probe(memory) is True  # EROFS reads pages of a file, which tmpfs does not let it do
        assert list(memory.iterdir()) == []


# --- Directories --------------------------------------------------------------------------------------------


def test_an_image_of_a_directory_shows_all_there_is_in_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rich_tree(source)
    for number in range(1500):  # more names than blocks hold
        (source / "etc" / f"{number}-{'n' * (number % 150)}").touch()
    for length in (1, 31, 2000, 2100, 4090):
        (source / f"link-{length}").symlink_to("t" * length)
    for length in (1, 1000, 3900):
        (source / f"attributes-{length}").mkdir()
        os.setxattr(source / f"attributes-{length}", "user.a", b"v" * length)
        (source / f"attributes-{length}" / "in").symlink_to("t" * 1500)
    make(source, tmp_path / "image", compression="")
    check_image(tmp_path / "image")
    assert shown(tmp_path / "image") == listing(source)
    assert (tmp_path / "image").stat().st_blocks * 512 < 7 << 20  # of which 3 MiB are holes


def test_the_same_directory_gives_the_same_image(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    rich_tree(tmp_path / "a")
    subprocess.run(["cp", "-a", tmp_path / "a", tmp_path / "b"], check=True, timeout=60)
    for name in ("a", "b"):
        make(tmp_path / name, tmp_path / f"{name}.image", compression="")
    assert (tmp_path / "a.image").read_bytes() == (tmp_path / "b.image").read_bytes()


# --- Archives -----------------------------------------------------------------------------------------------


async def test_a_layer_shows_what_its_archive_has(
    differ: ErofsDiffer, erofs: ErofsSnapshotter, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rich_tree(source)
    os.setxattr(
        source / "etc", "security.capability", bytes.fromhex("0100000200000000000000000000000000000000")
    )
    os.setxattr(source / "etc", "trusted.mine", b"1")
    command = ["tar", "-C", source, "--xattrs", "--xattrs-include=*", "-Scf", "-", "--format=pax", "."]
    done = await anyio.run_process(command, stdin=subprocess.DEVNULL)
    out = await apply(differ, await erofs.prepare("key", "", LAYER), done.stdout)
    assert (out.digest, out.size) == (sha256(done.stdout), len(done.stdout))
    await erofs.commit("layer", "key")
    check_image(image_of(tmp_path / "erofs", 1))
    assert await inside(await erofs.view("view", "layer"), below) == below(source)


async def test_the_same_archive_gives_the_same_image(
    differ: ErofsDiffer, erofs: ErofsSnapshotter, tmp_path: Path
) -> None:
    data = archive([Member("b/c", b"1" * 9000), Member("b/a", b"2"), symlink("l", "b"), link("b/h", "b/c")])
    for number in (1, 2):
        await layer(differ, erofs, f"layer-{number}", data)
    images = [image_of(tmp_path / "erofs", number).read_bytes() for number in (1, 2)]
    assert images[0] == images[1]


async def test_a_later_entry_takes_the_place_of_an_earlier_one(
    differ: ErofsDiffer, erofs: ErofsSnapshotter
) -> None:
    data = archive(
        [
            *(folder("d"), Member("d/x", b"1"), symlink("way", "d"), Member("way/y", b"2")),
            *(Member("f", b"1"), link("same", "f"), Member("f", b"22"), folder("f2"), Member("f2", b"3")),
            *(symlink("up", "../../d/../d"), Member("up/z", b"4"), symlink("new", "made/here")),
            *(Member("new/a", b"5"), folder("way"), Member("way/b", b"6"), link("d/same", "same")),
        ]
    )
    await layer(differ, erofs, "layer", data)
    assert await inside(await erofs.view("view", "layer"), tree) == {
        "d": "/",
        "d/same": "1",
        "d/x": "1",
        "d/y": "2",
        "d/z": "4",
        "f": "22",
        "f2": "3",
        "made": "/",
        "made/here": "/",
        "made/here/a": "5",
        "new": "-> made/here",
        "same": "1",
        "up": "-> ../../d/../d",
        "way": "/",
        "way/b": "6",
    }


async def test_a_mode_changes_the_acl_that_came_with_it(differ: ErofsDiffer, erofs: ErofsSnapshotter) -> None:
    entries = [(1, 6, -1), (2, 7, 1000), (4, 7, -1), (0x10, 7, -1), (0x20, 7, -1)]
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + rights.to_bytes(2, "little") + who.to_bytes(4, "little", signed=True)
        for tag, rights, who in entries
    )
    pax = {b"SCHILY.xattr.system.posix_acl_access": acl}
    await layer(differ, erofs, "layer", archive([Member("f", mode=0o640, pax=pax)]))

    def look(root: Path) -> tuple[int, bytes]:
        # The same done by the kernel.
        return (root / "f").stat().st_mode, os.getxattr(root / "f", "system.posix_acl_access")

    mode, found = await inside(await erofs.view("view", "layer"), look)
    assert (mode & 0o777, len(found)) == (0o640, len(acl))
    assert [found[at] for at in range(6, len(found), 8)] == [6, 7, 7, 4, 0]


async def test_implied_directories_and_the_root_are_those_below(
    differ: ErofsDiffer, erofs: ErofsSnapshotter, tmp_path: Path
) -> None:
    mine = {b"SCHILY.xattr.user.a": b"b" * 2000}
    base = [
        Member("./", type=b"5", mode=0o711, uid=3, mtime=5, pax=mine),
        Member("d", type=b"5", mode=0o1750, gid=4, mtime=6, pax=mine),
        Member("d/x", b"1"),
    ]
    await layer(differ, erofs, "base", archive(base))
    await layer(differ, erofs, "plain", archive([Member("y", b"2")]), "base")
    await layer(differ, erofs, "top", archive([Member("d/z", b"3"), Member("d/.wh.x")]), "plain")
    for name, number in (("plain", 2), ("top", 3)):
        facts = await inside(await erofs.view(f"view-{name}", name), listing)
        assert facts["."][:6] == (stat.S_IFDIR | 0o711, 3, 0, 5 * 10**9, None, {"user.a": b"b" * 2000})
        assert facts["d"][:6] == (stat.S_IFDIR | 0o1750, 0, 4, 6 * 10**9, None, {"user.a": b"b" * 2000})
        check_image(image_of(tmp_path / "erofs", number))
    assert sorted(await inside(await erofs.view("view", "top"), tree)) == ["d", "d/z", "y"]


async def test_a_layer_is_settled_once(differ: ErofsDiffer, erofs: ErofsSnapshotter, tmp_path: Path) -> None:
    for number, members in enumerate(([Member("a")], [Member("a/b"), Member("x/.wh.y")]), 1):
        await layer(differ, erofs, f"layer-{number}", archive(members))
        image = image_of(tmp_path / "erofs", number)
        settled = image.read_bytes()
        put_on(image, [tmp_path], userxattr=False)
        assert image.read_bytes() == settled


async def test_a_snapshot_that_somebody_else_filled_is_committed_too(
    differ: ErofsDiffer, erofs: ErofsSnapshotter
) -> None:
    mounts = await erofs.prepare("key", "", LAYER)
    assert await differ.suits(mounts)
    await inside(mounts, write({"a": "1"}))
    assert not await differ.suits(mounts)
    with pytest.raises(FailedPrecondition):
        await apply(differ, mounts, archive([]))
    await erofs.commit("layer", "key")
    assert await inside(await erofs.view("view", "layer"), tree) == {"a": "1"}


async def test_a_snapshot_takes_one_layer(differ: ErofsDiffer, erofs: ErofsSnapshotter) -> None:
    mounts = await erofs.prepare("key", "", LAYER)
    await apply(differ, mounts, archive([Member("a")]))
    with pytest.raises(FailedPrecondition):
        await apply(differ, mounts, archive([Member("b")]))
    await inside(mounts, write({"c": ""}))
    with pytest.raises(FailedPrecondition):
        await erofs.commit("layer", "key")


async def test_the_differ_is_for_what_the_snapshotter_prepared_for_a_layer(
    differ: ErofsDiffer, erofs: ErofsSnapshotter, tmp_path: Path
) -> None:
    (tmp_path / "fs").mkdir()
    bind = Mount("bind", str(tmp_path / "fs"), ("rbind",))
    for mounts in (
        *([], [bind], [bind, bind], [Mount("tmpfs", "tmpfs")], [Mount("bind", "/nowhere/fs", ("rbind",))]),
        await erofs.prepare("container", ""),
    ):
        assert not await differ.suits(mounts)
        with pytest.raises(FailedPrecondition):
            await apply(differ, mounts, archive([]))
    with pytest.raises(Unimplemented):
        await differ.diff([], [bind], TAR, MemoryIngest())
    with pytest.raises(Unimplemented):
        await differ.unpack_tar(MemoryBlob(archive([])), [bind])


async def test_a_layer_that_cannot_be_right_leaves_no_image_and_may_come_again(
    differ: ErofsDiffer, erofs: ErofsSnapshotter, tmp_path: Path
) -> None:
    mounts = await erofs.prepare("key", "", LAYER)
    for members in ([Member("big", os.urandom(3 << 20)), Member("../x")], [Member("a", b"", size=99999)]):
        with pytest.raises(OrlopError):
            await apply(differ, mounts, archive(members))
        assert not image_of(tmp_path / "erofs", 1).exists()
    await apply(differ, mounts, archive([Member("a", b"right")]))
    await erofs.commit("layer", "key")
    assert await inside(await erofs.view("view", "layer"), tree) == {"a": "right"}


async def test_bombs_meet_limits(erofs: ErofsSnapshotter, tmp_path: Path) -> None:
    large = {b"SCHILY.xattr.user." + str(number).encode(): bytes(60_000) for number in range(4)}
    bombs = [
        [folder(f"{number}") for number in range(101)],
        [Member(f"{number}/" + "d/" * 30 + "x") for number in range(50)],
        [Member("f", pax={**large, b"SCHILY.xattr.user.x": bytes(60_000)})],
        [folder("d"), Member("d/f", pax={b"SCHILY.xattr.user.x": bytes(70_000)})],
    ]
    async for differ in make_differ(tmp_path, Limits(entries=100)):
        mounts = await erofs.prepare("key", "", LAYER)
        for members in bombs:
            with pytest.raises((ResourceExhausted, InvalidArgument)) as caught:
                await apply(differ, mounts, archive(members))
            assert len(caught.value.message) < 300


CONFINED = """
import os, sys
from orlop_plugins.erofs.worker import lock_in
lock_in(sys.argv[1])
print(os.listdir("/"), os.getresuid(), os.getresgid(), os.getgroups())
for attempt in (lambda: os.mkdir("/x"), lambda: os.chroot("/"), lambda: os.kill(os.getppid(), 0)):
    try:
        attempt()
        print("done")
    except OSError as error:
        print(error.strerror)
"""


def test_a_worker_has_nothing_but_its_descriptors(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", CONFINED, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    nobody = "(65534, 65534, 65534)"
    assert done.stdout.splitlines() == [
        f"[] {nobody} {nobody} []",
        *("Read-only file system", "Operation not permitted", "Operation not permitted"),
    ]
    assert list(tmp_path.iterdir()) == []


def test_names_that_say_little_at_great_length_are_not_kept(tmp_path: Path) -> None:
    class Nothing:
        def data(self) -> tuple[memoryview, ...]:
            return ()

    with (tmp_path / "image").open("w+b") as image:
        unpacker = Unpacker(image.fileno(), Limits(), Marks.of(userxattr=False))
        for number in range(20):
            name = b"d/" + b"./" * 50_000 + b"/" * number + b"x"
            unpacker._entry(Entry(name, REG), cast("Any", Nothing()))
        assert sum(map(len, unpacker._heads)) < 10_000
