"""The kit for differs of tar layers: what they write, what they read, and what they must refuse."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from orlopd.plugin.diff import Differ
from orlopd.plugin.errors import DataLoss, InvalidArgument, OrlopError
from orlopd.plugin.values import Descriptor, Mount, sha256

from ._hostile import HostileArchives
from ._layers import DOCKER, GZIP, TAR, ZSTD, Host, below, children, listing, rich_tree
from ._open import Factory
from .archives import Member, archive, folder, gzipped, header, link, padded, symlink
from .blobs import FileBlob, MemoryBlob

__all__ = ["DifferKit", "Factory", "below", "listing", "rich_tree"]


class DifferKit(HostileArchives):
    """Derive from it and define the fixture ``factory``."""

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
        data = gzipped(archive([Member("big", os.urandom(24 << 20))]), level=0)
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
        before = await anyio.to_thread.run_sync(children)
        with anyio.move_on_after(0.5) as scope:
            await differ.apply(Descriptor(TAR, sha256(data), len(data)), Stuck(data), host.bind("layer"))
        assert scope.cancelled_caught
        with anyio.fail_after(5):
            while await anyio.to_thread.run_sync(children) - before:  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.05)
        await self.apply(differ, host.bind("after"), data)

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
