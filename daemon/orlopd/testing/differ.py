"""The kit for differs of tar layers: what they write, what they read, and what they must refuse."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from orlopd.plugin.diff import Differ
from orlopd.plugin.errors import DataLoss, InvalidArgument, OrlopError
from orlopd.plugin.mount import mount_points
from orlopd.plugin.values import Descriptor, Mount, sha256

from ._open import Factory, opened
from .archives import Member, archive, folder, gzipped, header, link, padded, symlink
from .blobs import FileBlob, MemoryBlob, MemoryIngest

TAR = "application/vnd.oci.image.layer.v1.tar"
GZIP = f"{TAR}+gzip"
ZSTD = f"{TAR}+zstd"
DOCKER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
SECRET = "of the host"


class Host:
    """Folders of one test: a layer to fill, and a file outside that no archive may reach."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secret = path / "secret"
        self.secret.write_text(SECRET)
        self.secret.chmod(0o600)
        self.before = self.secret.stat()

    def folder(self, name: str) -> Path:
        """A fresh folder, or the one there is."""
        made = self.path / name
        made.mkdir(mode=0o755, exist_ok=True)
        return made

    def bind(self, name: str) -> list[Mount]:
        """Such a folder as mounts."""
        return [Mount("bind", str(self.folder(name)), ("rbind", "rw"))]

    def check(self) -> None:
        """Nothing outside the layer was touched."""
        after = self.secret.stat()
        assert self.secret.read_text() == SECRET
        assert (after.st_mode, after.st_nlink, after.st_mtime_ns, after.st_uid) == (
            *(self.before.st_mode, 1, self.before.st_mtime_ns, self.before.st_uid),
        )


def listing(root: Path) -> dict[str, Any]:
    """All there is to know of a tree, but times of access and of change."""
    names: dict[tuple[int, int], str] = {}
    found: dict[str, Any] = {}
    for path in (root, *sorted(root.rglob("*"))):
        info = path.lstat()
        name = str(path.relative_to(root))
        first = names.setdefault((info.st_dev, info.st_ino), name)
        what: Any = None
        if stat.S_ISLNK(info.st_mode):
            what = str(path.readlink())
        elif stat.S_ISREG(info.st_mode):
            what = path.read_bytes()
        elif not stat.S_ISDIR(info.st_mode):
            what = info.st_rdev
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in sorted(os.listxattr(path, follow_symlinks=False))
            if not key.startswith("trusted.overlay.")
        }
        found[name] = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, what, xattrs, first)
    return found


def below(root: Path) -> dict[str, Any]:
    """The same without the top directory itself, which no layer has an entry for."""
    found = listing(root)
    del found["."]
    return found


def rich_tree(root: Path) -> None:
    """One of everything."""
    (root / "etc").mkdir()
    (root / "etc/motd").write_text("hello")
    (root / "etc/motd").chmod(0o4751)
    os.chown(root / "etc/motd", 1000, 1 << 22)
    os.chmod(root / "etc/motd", 0o4751)  # noqa: PTH101 - chown cleared it
    os.utime(root / "etc/motd", ns=(0, 1_234_567_890_987_654_321))
    os.setxattr(root / "etc/motd", "user.colour", b"b\0lue\n")
    (root / "empty").touch()
    os.utime(root / "empty", ns=(0, -1_500_000_000))
    os.link(root / "etc/motd", root / "other-name")
    (root / "link").symlink_to("etc/motd")
    (root / "dangling").symlink_to("/nowhere/" + "x" * 300)
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    long = root / ("d" * 200)
    long.mkdir()
    (long / ("f" * 200)).write_text("long")
    (root / "ünï©ode\n").write_text("odd")
    (root / "big").write_bytes(os.urandom(3 << 20))
    with (root / "sparse").open("wb") as file:
        file.truncate(8 << 20)
        for at in (1 << 20, 5 << 20):
            file.seek(at)
            file.write(b"data" * 1024)
    (root / "etc").chmod(0o1777)
    os.utime(root / "etc", ns=(0, 77_000_000_007))


@pytest.mark.anyio
class DifferKit:
    """Derive from it and define the fixture ``factory``."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def factory(self) -> Factory[Differ]:
        """How to make the differ."""
        raise NotImplementedError("define a fixture 'factory' that returns how to make the differ")

    @pytest.fixture
    def host(self, tmp_path: Path) -> Host:
        return Host(tmp_path)

    @pytest.fixture
    async def differ(
        self, factory: Factory[Differ], host: Host, anyio_backend: Any
    ) -> AsyncGenerator[Differ]:
        async with opened(factory, host.folder("differ")) as part:
            yield part
        assert mount_points(host.path) == []
        host.check()

    async def apply(
        self, differ: Differ, mounts: Sequence[Mount], data: bytes, media_type: str = TAR
    ) -> Descriptor:
        """Apply a layer that is in no file."""
        return await differ.apply(Descriptor(media_type, sha256(data), len(data)), MemoryBlob(data), mounts)

    async def diff(
        self, differ: Differ, lower: Sequence[Mount], upper: Sequence[Mount], media_type: str = TAR
    ) -> tuple[bytes, str]:
        """A layer and its diff id."""
        sink = MemoryIngest()
        diff_id = await differ.diff(lower, upper, media_type, sink)
        return bytes(sink.data), diff_id

    # Applying.

    @pytest.mark.parametrize("media_type", [TAR, GZIP, ZSTD, DOCKER])
    async def test_it_handles_layers_and_nothing_else(self, differ: Differ, media_type: str) -> None:
        assert differ.handles(media_type)
        for other in (
            "",
            "text/plain",
            media_type + "+encrypted",
            "application/vnd.oci.image.config.v1+json",
        ):
            assert not differ.handles(other)

    async def test_files_arrive_as_they_are_in_the_layer(self, differ: Differ, host: Host) -> None:
        data = archive(
            [
                folder("./", 0o750, uid=1, gid=2),
                folder("etc", 0o1777, mtime=5),
                Member("etc/motd", b"hello", mode=0o4755, uid=1000, gid=1001, mtime=1_600_000_000),
                link("etc/other", "etc/motd"),
                symlink("etc/link", "motd"),
                Member("etc/fifo", type=b"6"),
                Member("etc/null", type=b"3", device=(1, 3), mode=0o666),
                Member("x/y/z", b"parents are made"),
            ]
        )
        out = await self.apply(differ, host.bind("layer"), data)
        assert (out.digest, out.size) == (sha256(data), len(data))
        root = host.folder("layer")
        info = (root / "etc/motd").stat()
        assert (info.st_mode, info.st_uid, info.st_gid) == (stat.S_IFREG | 0o4755, 1000, 1001)
        assert (info.st_mtime, info.st_nlink) == (1_600_000_000, 2)
        assert (root / "etc/other").read_text() == "hello"
        assert (root / "etc/link").readlink() == Path("motd")
        assert stat.S_ISFIFO((root / "etc/fifo").stat().st_mode)
        assert (root / "etc/null").stat().st_rdev == os.makedev(1, 3)
        assert ((root / "etc").stat().st_mtime, (root / "etc").stat().st_mode) == (5, stat.S_IFDIR | 0o1777)
        assert (stat.S_IMODE(root.stat().st_mode), root.stat().st_uid, root.stat().st_gid) == (0o750, 1, 2)
        assert (root / "x/y/z").read_text() == "parents are made"
        assert stat.S_IMODE((root / "x/y").stat().st_mode) == 0o755

    async def test_a_blob_in_a_file_and_progress(self, differ: Differ, host: Host) -> None:
        data = gzipped(archive([Member("big", os.urandom(24 << 20))]))
        path = host.path / "blob"
        path.write_bytes(data)
        seen: list[int] = []
        layer = Descriptor(GZIP, sha256(data), len(data))
        await differ.apply(layer, FileBlob(path), host.bind("layer"), progress=seen.append)
        assert seen
        assert seen == sorted(seen)
        assert seen[-1] <= len(data)

    @pytest.mark.parametrize("media_type", [GZIP, DOCKER])
    async def test_the_diff_id_is_of_the_uncompressed_layer(
        self, differ: Differ, host: Host, media_type: str
    ) -> None:
        plain = archive([Member("a", b"x" * 100_000)])
        out = await self.apply(differ, host.bind("layer"), gzipped(plain), media_type)
        assert (out.digest, out.size) == (sha256(plain), len(plain))

    async def test_gzip_of_several_members_and_padding(self, differ: Differ, host: Host) -> None:
        plain = archive([Member("a", b"x" * 100_000)])
        data = gzipped(plain[:5000]) + gzipped(plain[5000:]) + bytes(700)
        assert (await self.apply(differ, host.bind("layer"), data, GZIP)).digest == sha256(plain)

    async def test_an_empty_layer(self, differ: Differ, host: Host) -> None:
        for data in (archive([]), b""):
            assert (await self.apply(differ, host.bind("layer"), data)).digest == sha256(data)
        assert list(host.folder("layer").iterdir()) == []

    async def test_pax_and_gnu_headers(self, differ: Differ, host: Host) -> None:
        name, target = b"n" * 150 + b"/" + b"m" * 200, b"t" * 300
        data = archive(
            [
                Member(
                    "short", b"1", pax={b"path": name, b"mtime": b"-1.5", b"uid": b"3000000", b"gid": b"7"}
                ),
                Member("x", b"2", pax={b"SCHILY.xattr.user.a": b"\0=\n", b"mtime": b"12.123456789"}),
                header(b"././@LongLink", b"L", 151) + padded(b"g" * 150 + b"\0"),
                header(b"././@LongLink", b"K", 301) + padded(target + b"\0"),
                symlink("cut", "cut"),
                Member("old", b"3", mtime=-86400),
            ]
        )
        await self.apply(differ, host.bind("layer"), data)
        root = os.fsencode(host.folder("layer"))
        info = os.stat(root + b"/" + name)  # noqa: PTH116
        assert (info.st_mtime_ns, info.st_uid, info.st_gid) == (-1_500_000_000, 3_000_000, 7)
        assert os.getxattr(root + b"/x", "user.a") == b"\0=\n"
        assert os.stat(root + b"/x").st_mtime_ns == 12_123_456_789  # noqa: PTH116
        assert os.readlink(root + b"/" + b"g" * 150) == target  # noqa: PTH115
        assert os.stat(root + b"/old").st_mtime == -86400  # noqa: PTH116

    async def test_sparse_files_of_every_format(self, differ: Differ, host: Host) -> None:
        if shutil.which("tar") is None:
            pytest.skip("needs GNU tar")
        source = host.folder("source")
        with (source / "sparse").open("wb") as file:
            file.truncate(4 << 20)
            for at in range(0, 3 << 20, 1 << 17):  # more pieces than one header holds
                file.seek(at)
                file.write(b"data" * 1024)
        for path in (source / "sparse", source):
            os.utime(path, (0, 1_600_000_000))  # the oldest format knows whole seconds only
        for options in (
            ("--format=gnu",),
            ("--format=pax", "--sparse-version=0.0"),
            ("--format=pax", "--sparse-version=0.1"),
            ("--format=pax", "--sparse-version=1.0"),
        ):
            command = ["tar", "-C", str(source), "-S", *options, "-cf", "-", "."]
            done = await anyio.run_process(command, stdin=subprocess.DEVNULL)
            target = host.folder("layer-" + "".join(options).replace("=", "-"))
            await self.apply(differ, [Mount("bind", str(target), ("rbind",))], done.stdout)
            assert listing(target) == listing(source)
            assert (target / "sparse").stat().st_blocks * 512 < 2 << 20

    async def test_whiteouts_hide_what_is_below(self, differ: Differ, host: Host) -> None:
        mounts = host.bind("layer")
        first = [Member("a", b"1"), Member("d/x", b"1"), Member("d/y", b"1"), Member("o/x/deep", b"1")]
        await self.apply(differ, mounts, archive(first))
        second = [
            *(Member(".wh.a"), Member("d/.wh.x"), Member("o/new", b"2"), Member("o/.wh..wh..opq")),
            *(Member("o/newer", b"2"), Member(".wh..wh.aufs"), Member("gone/.wh.nothing")),
        ]
        await self.apply(differ, mounts, archive(second))
        root = host.folder("layer")
        found = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
        assert found in (
            ["d", "d/y", "o", "o/new", "o/newer"],
            ["d", "d/y", "gone", "o", "o/new", "o/newer"],
        )

    async def test_an_entry_takes_the_place_of_what_is_there(self, differ: Differ, host: Host) -> None:
        mounts = host.bind("layer")
        await self.apply(
            differ,
            mounts,
            archive([Member("f", b"1"), Member("d/x", b"1"), symlink("l", "d"), Member("g", b"1")]),
        )
        await self.apply(
            differ,
            mounts,
            archive([folder("f"), Member("d", b"2"), folder("l"), Member("l/y", b"2"), Member("g", b"2")]),
        )
        root = host.folder("layer")
        assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == ["d", "f", "g", "l", "l/y"]
        assert ((root / "d").read_text(), (root / "g").read_text()) == ("2", "2")
        assert not (root / "l").is_symlink()

    async def test_unpacking_for_a_copy_knows_no_whiteouts(self, differ: Differ, host: Host) -> None:
        (host.folder("layer") / "a").write_text("stays")
        data = gzipped(archive([Member(".wh.a", b"12345"), Member("b", b"123")]))
        assert await differ.unpack_tar(MemoryBlob(data), host.bind("layer")) == 8
        assert sorted(path.name for path in host.folder("layer").iterdir()) == [".wh.a", "a", "b"]

    # Damage.

    async def test_a_wrong_digest(self, differ: Differ, host: Host) -> None:
        data = archive([Member("a", b"1")])
        with pytest.raises(DataLoss):
            await differ.apply(
                Descriptor(TAR, sha256(b"other"), len(data)), MemoryBlob(data), host.bind("layer")
            )

    @pytest.mark.parametrize("compress", [gzipped, bytes], ids=["gzip", "plain"])
    async def test_a_layer_that_was_cut_short(
        self, differ: Differ, host: Host, compress: Callable[[bytes], bytes]
    ) -> None:
        data = compress(archive([Member("a", os.urandom(100_000))]))
        for keep in (10, 600, len(data) // 2):
            cut = data[:keep]
            with pytest.raises((DataLoss, InvalidArgument)):
                await self.apply(differ, host.bind("layer"), cut)
            with pytest.raises(DataLoss):
                await differ.apply(Descriptor(GZIP, sha256(data), 0), MemoryBlob(cut), host.bind("layer"))

    async def test_a_corrupt_stream(self, differ: Differ, host: Host) -> None:
        data = bytearray(gzipped(archive([Member("a", os.urandom(100_000))])))
        data[50_000:50_100] = bytes(100)
        with pytest.raises(DataLoss):
            await self.apply(differ, host.bind("layer"), bytes(data), GZIP)

    async def test_what_is_no_archive(self, differ: Differ, host: Host) -> None:
        for data in (b"hello", b"\x01" * 4096, os.urandom(4096), gzipped(b"<html>" * 1000)):
            with pytest.raises((InvalidArgument, DataLoss)):
                await self.apply(differ, host.bind("layer"), data)
        assert list(host.folder("layer").iterdir()) == []

    async def test_a_cancelled_apply_leaves_no_worker(self, differ: Differ, host: Host) -> None:
        class Stuck(MemoryBlob):
            async def read_at(self, offset: int, size: int) -> bytes:
                if offset:
                    await anyio.sleep_forever()
                return await super().read_at(offset, 1024)

        data = archive([Member("a", b"x" * 100_000)])
        await self.apply(differ, host.bind("before"), data)
        before = await anyio.to_thread.run_sync(_children)
        with anyio.move_on_after(0.5) as scope:
            await differ.apply(Descriptor(TAR, sha256(data), len(data)), Stuck(data), host.bind("layer"))
        assert scope.cancelled_caught
        with anyio.fail_after(5):
            while await anyio.to_thread.run_sync(_children) - before:  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.05)
        await self.apply(differ, host.bind("after"), data)

    # Hostile archives.

    @pytest.mark.parametrize(
        "members",
        [
            [Member("../secret", b"hacked")],
            [Member("a/../../secret", b"hacked")],
            [folder("../outside")],
            [link("mine", "../secret")],
            [link("mine", "a/../../secret")],
            [Member("a\0b", pax={b"path": b"a\0../secret"})],
            [Member("x", pax={b"path": b"../secret"})],
            [Member(".wh..")],
            [Member(".wh...")],
            [Member("d/.wh..")],
            [Member(".wh.")],
            [Member("", b"x"), Member(".", b"x")],
            [symlink("/", "/etc")],
            [Member("f", b"1"), Member("f/x", b"1")],
            [link("missing", "nothing")],
            [folder("d"), link("l", "d")],
            [Member("dev", type=b"3", device=(1 << 20, 0))],
            [Member("dev", type=b"4", device=(8, -1))],
            [Member("odd", type=b"Z")],
            [Member("a", uid=(1 << 32) - 1)],
            [Member("a", gid=-1)],
            [Member("x" * 90, pax={b"path": b"y/" * 3000 + b"z"})],
            [Member("x", pax={b"path": b"n" * 300})],
            [Member("x", pax={b"mtime": b"nan"})],
            [Member("x", pax={b"size": b"-1"})],
            [Member("x", pax={b"size": b"9" * 30})],
        ],
    )
    async def test_an_archive_that_cannot_be_right_is_refused(
        self, differ: Differ, host: Host, members: list[Member]
    ) -> None:
        with pytest.raises(InvalidArgument) as caught:
            await self.apply(differ, host.bind("layer"), archive(members))
        assert "\n" not in caught.value.message
        assert len(caught.value.message) < 600
        host.check()

    @pytest.mark.parametrize("target", ["{host}", "../../../../../../../../{host}", "/proc/self/root/{host}"])
    async def test_cve_2025_47290_no_write_goes_through_a_symlink_outside(
        self, differ: Differ, host: Host, target: str
    ) -> None:
        away = target.format(host=host.path)
        members = [
            symlink("way", away),
            Member("way/secret", b"hacked"),
            folder("way/made"),
            symlink("deep", "way"),
            Member("deep/secret", b"hacked", mode=0o777),
        ]
        with contextlib.suppress(InvalidArgument):
            await self.apply(differ, host.bind("layer"), archive(members))
        host.check()
        assert not (host.path / "made").exists()

    async def test_cve_2025_47290_a_name_is_first_a_directory_then_a_symlink(
        self, differ: Differ, host: Host
    ) -> None:
        members = [
            folder("d"),
            Member("d/secret", b"first"),
            symlink("d", str(host.path)),
            Member("d/secret", b"hacked"),
            Member("d/.wh.secret"),
            Member("d/.wh..wh..opq"),
        ]
        with contextlib.suppress(InvalidArgument):
            await self.apply(differ, host.bind("layer"), archive(members))
        host.check()

    async def test_cve_2021_32760_no_link_changes_the_mode_of_a_host_file(
        self, differ: Differ, host: Host
    ) -> None:
        members = [
            symlink("s", str(host.secret)),
            Member("h", type=b"1", link="s", mode=0o777, uid=5, mtime=1),
            Member("s2", type=b"2", link=str(host.secret), mode=0o777, uid=5),
            Member("h2", type=b"1", link=str(host.secret), mode=0o777),
        ]
        with pytest.raises(InvalidArgument):
            await self.apply(differ, host.bind("layer"), archive(members))
        host.check()
        assert (host.folder("layer") / "h").is_symlink()

    async def test_cve_2025_4517_a_long_chain_of_symlinks_leads_nowhere(
        self, differ: Differ, host: Host
    ) -> None:
        # The path through the chain is too long to resolve, where a check might give up and a write not.
        members: list[Member] = []
        path = ""
        for letter in "abcdefghijklmnop":
            members += [folder(f"{path}{'d' * 240}"), symlink(f"{path}{letter}", "d" * 240)]
            path += f"{letter}/"
        members += [
            symlink(f"{path}{'l' * 250}", "../" * 16),
            symlink("escape", f"{path}{'l' * 250}/../../../.." + str(host.path)),
            Member("escape/secret", b"hacked"),
            link("flag", "escape/secret"),
            Member("flag", b"hacked"),
        ]
        with contextlib.suppress(InvalidArgument):
            await self.apply(differ, host.bind("layer"), archive(members))
        host.check()

    async def test_cve_2025_8194_negative_sizes_end_at_once(self, differ: Differ, host: Host) -> None:
        for size in (-1, -512, -(1 << 62)):
            with pytest.raises(InvalidArgument):
                await self.apply(differ, host.bind("layer"), archive([Member("a", b"", size=size)]))
        with pytest.raises(OrlopError):
            await self.apply(differ, host.bind("layer"), archive([header(b"p", b"x", -512), Member("a")]))

    async def test_cve_2024_6232_evil_headers_burn_no_time(self, differ: Differ, host: Host) -> None:
        for records in (
            b"1" * 500_000,
            b"0 " * 250_000,
            b"11 a=b" * 80_000,
            b" " * 500_000,
            b"9999999999 a=b\n",
        ):
            head = header(b"p", b"x", len(records)) + padded(records)
            begun = time.monotonic()
            with pytest.raises(InvalidArgument):
                await self.apply(differ, host.bind("layer"), archive([head, Member("a")]))
            assert time.monotonic() - begun < 3

    async def test_cve_2026_41567_nothing_of_the_layer_is_run(self, differ: Differ, host: Host) -> None:
        trap = b"open('/trapped', 'w')\n"
        names = (
            "encodings/idna.py",
            "encodings/cp437.py",
            "gzip",
            "usr/bin/unpigz",
            "bin/gzip",
            "linecache.py",
        )
        members = [Member(name, trap, mode=0o755) for name in names]
        modules = ("traceback", "linecache", "tokenize", "encodings/cp1250", "zstandard/__init__")
        members += [Member(f"{module}.py", trap) for module in modules]
        with pytest.raises(OrlopError):
            await self.apply(differ, host.bind("layer"), archive([*members, Member("x", type=b"Z")]))
        await self.apply(differ, host.bind("layer"), gzipped(archive(members)), GZIP)
        assert not (host.folder("layer") / "trapped").exists()

    async def test_overlays_own_attributes_do_not_come_from_an_archive(
        self, differ: Differ, host: Host
    ) -> None:
        marks = {
            b"SCHILY.xattr.trusted.overlay.redirect": b"/etc",
            b"SCHILY.xattr.trusted.overlay.opaque": b"y",
        }
        await self.apply(differ, host.bind("layer"), archive([Member("d", type=b"5", pax=marks)]))
        assert os.listxattr(host.folder("layer") / "d") == []

    # Writing.

    @pytest.mark.parametrize("media_type", [TAR, GZIP, ZSTD, DOCKER])
    async def test_a_tree_survives_the_round_trip(self, differ: Differ, host: Host, media_type: str) -> None:
        source = host.folder("source")
        rich_tree(source)
        data, diff_id = await self.diff(differ, [], host.bind("source"), media_type)
        out = await self.apply(differ, host.bind("copy"), data, media_type)
        assert out.digest == diff_id
        copy = host.folder("copy")
        assert below(copy) == below(source)
        assert (copy / "sparse").stat().st_blocks == (source / "sparse").stat().st_blocks

    async def test_the_same_tree_gives_the_same_bytes(self, differ: Differ, host: Host) -> None:
        source = host.folder("source")
        rich_tree(source)
        first = await self.diff(differ, [], host.bind("source"), GZIP)
        await anyio.run_process(["cp", "-a", str(source), str(host.path / "copy")])
        assert await self.diff(differ, [], host.bind("copy"), GZIP) == first

    async def test_only_what_changed_is_written(self, differ: Differ, host: Host) -> None:
        source = host.folder("lower")
        rich_tree(source)
        await anyio.run_process(["cp", "-a", str(source), str(host.path / "upper")])
        upper = host.path / "upper"
        nothing, _ = await self.diff(differ, host.bind("lower"), host.bind("upper"))
        assert nothing == bytes(1024)
        (upper / "etc/motd").write_text("HELLO")
        (upper / "fifo").unlink()
        (upper / ("d" * 200) / "new").write_text("new")
        shutil.rmtree(upper / "empty", ignore_errors=True)
        (upper / "empty").unlink()
        (upper / "empty").mkdir()
        (upper / "link").unlink()
        (upper / "link").symlink_to("else")
        os.link(upper / "big", upper / "big-again")
        data, _ = await self.diff(differ, host.bind("lower"), host.bind("upper"))
        assert len(data) < 5 << 20
        await self.apply(differ, host.bind("lower"), data)
        assert below(source) == below(upper)
        assert (await self.diff(differ, host.bind("lower"), host.bind("upper")))[0] == bytes(1024)

    async def test_other_tools_read_it(self, differ: Differ, host: Host) -> None:
        if shutil.which("tar") is None:
            pytest.skip("needs GNU tar")
        rich_tree(host.folder("source"))
        data, _ = await self.diff(differ, [], host.bind("source"), GZIP)
        copy = host.folder("copy")
        command = ["tar", "-C", str(copy), "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xzpf", "-"]
        await anyio.run_process(command, input=data)
        assert below(copy) == below(host.folder("source"))

    async def test_an_unknown_media_type_is_refused(self, differ: Differ, host: Host) -> None:
        with pytest.raises(InvalidArgument):
            await self.diff(differ, [], host.bind("source"), "text/plain")

    async def test_what_is_missing_is_an_error(self, differ: Differ, host: Host) -> None:
        missing = [Mount("bind", str(host.path / "missing"), ("rbind",))]
        with pytest.raises(OrlopError):
            await self.diff(differ, [], missing)
        with pytest.raises(OrlopError):
            await self.apply(differ, missing, archive([]))


def _children() -> set[int]:
    """Every process below this one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found
