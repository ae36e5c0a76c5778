"""The part of the kit for snapshotters that is about files."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from orlopd.plugin.snapshots import Snapshotter

from ._open import Factory, opened
from ._trees import inside, tree, write

T = TypeVar("T")


@pytest.mark.anyio
class SnapshotFilesKit:
    """What layers show and keep."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def factory(self) -> Factory[Snapshotter]:
        """How to make the snapshotter."""
        raise NotImplementedError("define a fixture 'factory' that returns how to make the snapshotter")

    @pytest.fixture
    async def snapshotter(
        self, factory: Factory[Snapshotter], tmp_path: Path, anyio_backend: Any
    ) -> AsyncGenerator[Snapshotter]:
        async with opened(factory, tmp_path) as part:
            yield part

    async def layer(self, s: Snapshotter, parent: str, work: Callable[[Path], object], name: str = "") -> str:
        """Commit a snapshot on ``parent`` in which ``work`` was done; its name."""
        name = name or f"layer-{secrets.token_hex(4)}"
        await inside(await s.prepare(f"{name}-key", parent), work)
        await s.commit(name, f"{name}-key")
        return name

    async def shown(self, s: Snapshotter, parent: str, work: Callable[[Path], T] = tree) -> T:
        """What a view of ``parent`` shows."""
        key = f"view-{secrets.token_hex(4)}"
        seen = await inside(await s.view(key, parent), work)
        await s.remove(key)
        return seen

    async def test_a_base_is_empty_and_writable(self, snapshotter: Snapshotter) -> None:
        mounts = await snapshotter.prepare("base", "")
        assert await inside(mounts, tree) == {}
        await inside(mounts, write({"etc/motd": "hello"}))
        assert await inside(await snapshotter.mounts("base"), tree) == {"etc": "/", "etc/motd": "hello"}

    async def test_the_root_directory_is_open_to_everybody(self, snapshotter: Snapshotter) -> None:
        mounts = await snapshotter.prepare("base", "")
        assert await inside(mounts, lambda root: stat.S_IMODE(root.stat().st_mode)) == 0o755

    async def test_upper_layers_show_over_lower_ones(self, snapshotter: Snapshotter) -> None:
        one = await self.layer(snapshotter, "", write({"a": "1", "b": "1", "d/x": "1"}))
        two = await self.layer(snapshotter, one, write({"b": "2", "c": "2", "d/y": "2"}))
        assert await self.shown(snapshotter, two) == {
            "a": "1",
            "b": "2",
            "c": "2",
            "d": "/",
            "d/x": "1",
            "d/y": "2",
        }
        assert await self.shown(snapshotter, one) == {"a": "1", "b": "1", "d": "/", "d/x": "1"}

    async def test_a_removed_file_stays_hidden(self, snapshotter: Snapshotter) -> None:
        one = await self.layer(snapshotter, "", write({"a": "1", "d/x": "1", "d/y": "1"}))
        two = await self.layer(snapshotter, one, write({"a": None, "d/x": None}))
        three = await self.layer(snapshotter, two, write({"z": "3"}))
        assert await self.shown(snapshotter, three) == {"d": "/", "d/y": "1", "z": "3"}

    async def test_a_directory_made_anew_hides_the_old_one(self, snapshotter: Snapshotter) -> None:
        one = await self.layer(snapshotter, "", write({"d/x": "1"}))
        anew: dict[str, str | None] = {"d/x": None, "d": None}
        two = await self.layer(snapshotter, one, lambda root: (write(anew)(root), write({"d/y": "2"})(root)))
        assert await self.shown(snapshotter, two) == {"d": "/", "d/y": "2"}

    async def test_a_file_may_become_a_directory_and_a_directory_a_file(
        self, snapshotter: Snapshotter
    ) -> None:
        def swap(root: Path) -> None:
            (root / "f").unlink()
            (root / "f").mkdir()
            (root / "d").rmdir()
            (root / "d").write_text("file")

        one = await self.layer(snapshotter, "", write({"f": "1", "d": "/"}))
        two = await self.layer(snapshotter, one, swap)
        assert await self.shown(snapshotter, two) == {"f": "/", "d": "file"}

    async def test_a_rename_across_layers(self, snapshotter: Snapshotter) -> None:
        one = await self.layer(snapshotter, "", write({"old": "1", "d": "/"}))
        two = await self.layer(snapshotter, one, lambda root: (root / "old").rename(root / "d/new"))
        assert await self.shown(snapshotter, two) == {"d": "/", "d/new": "1"}
        assert await self.shown(snapshotter, one) == {"old": "1", "d": "/"}

    async def test_owners_modes_times_and_attributes_are_kept(self, snapshotter: Snapshotter) -> None:
        def make(root: Path) -> None:
            file, folder = root / "file", root / "folder"
            file.write_text("x")
            os.chown(file, 1000, 1001)
            file.chmod(0o4755)
            os.setxattr(file, "user.colour", b"blue")
            os.utime(file, ns=(1_000_000_001, 1_234_567_890_123_456_789))
            folder.mkdir()
            folder.chmod(0o1777)
            os.chown(folder, 7, 8)
            (root / "link").symlink_to("nowhere")
            os.chown(root / "link", 5, 6, follow_symlinks=False)
            os.mkfifo(root / "fifo", 0o640)
            os.mknod(root / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
            os.mknod(root / "block", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
            os.setxattr(root / "folder", "user.shape", b"round")
            os.utime(root / "link", ns=(0, -1_500_000_000), follow_symlinks=False)
            os.utime(folder, ns=(0, 5_000_000_000))

        def look(root: Path) -> list[tuple[Any, ...]]:
            rows: list[tuple[Any, ...]] = []
            for name in ("file", "folder", "link", "fifo", "null", "block"):
                info = (root / name).lstat()
                rows.append((name, info.st_mode, info.st_uid, info.st_gid, info.st_rdev))
            rows.append((os.getxattr(root / "file", "user.colour"), (root / "file").stat().st_mtime_ns))
            rows.append((os.getxattr(root / "folder", "user.shape"), (root / "folder").stat().st_mtime_ns))
            rows.append(((root / "link").lstat().st_mtime_ns,))
            return rows

        one = await self.layer(snapshotter, "", make)
        two = await self.layer(snapshotter, one, write({"other": ""}))
        before = await self.shown(snapshotter, one, look)
        assert await self.shown(snapshotter, two, look) == before
        assert before == [
            ("file", stat.S_IFREG | 0o4755, 1000, 1001, 0),
            ("folder", stat.S_IFDIR | 0o1777, 7, 8, 0),
            ("link", stat.S_IFLNK | 0o777, 5, 6, 0),
            ("fifo", stat.S_IFIFO | 0o640, 0, 0, 0),
            ("null", stat.S_IFCHR | 0o600, 0, 0, os.makedev(1, 3)),
            ("block", stat.S_IFBLK | 0o600, 0, 0, os.makedev(259, 70_000)),
            (b"blue", 1_234_567_890_123_456_789),
            (b"round", 5_000_000_000),
            (-1_500_000_000,),
        ]

    async def test_the_root_directory_keeps_its_owner_and_mode(self, snapshotter: Snapshotter) -> None:
        def change(root: Path) -> None:
            root.chmod(0o750)
            os.chown(root, 3, 4)

        def look(root: Path) -> tuple[int, int, int]:
            info = root.stat()
            return stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid

        one = await self.layer(snapshotter, "", change)
        two = await self.layer(snapshotter, one, write({"x": ""}))
        assert await inside(await snapshotter.prepare("top", two), look) == (0o750, 3, 4)

    async def test_hard_links_and_holes_are_kept(self, snapshotter: Snapshotter) -> None:
        def make(root: Path) -> None:
            (root / "one").write_text("x")
            os.link(root / "one", root / "two")
            with (root / "sparse").open("wb") as file:
                file.truncate(64 << 20)
                file.seek(32 << 20)
                file.write(b"middle")

        def look(root: Path) -> tuple[bool, bytes, bool]:
            with (root / "sparse").open("rb") as file:
                file.seek(32 << 20)
                middle = file.read(6)
                # What copies the file passes over the hole, whatever the filesystem says of blocks.
                hole = os.lseek(file.fileno(), 0, os.SEEK_DATA) > 30 << 20
            return (root / "one").samefile(root / "two"), middle, hole

        one = await self.layer(snapshotter, "", make)
        assert await inside(await snapshotter.prepare("top", one), look) == (True, b"middle", True)

    async def test_a_chain_of_thirty_layers(self, snapshotter: Snapshotter) -> None:
        name = ""
        for number in range(30):
            changes: dict[str, str | None] = {f"file-{number}": "", "last": str(number)}
            if number:
                changes[f"file-{number - 1}"] = None
            name = await self.layer(snapshotter, name, write(changes))
        assert await self.shown(snapshotter, name) == {"file-29": "", "last": "29"}

    async def test_a_view_is_read_only(self, snapshotter: Snapshotter) -> None:
        one = await self.layer(snapshotter, "", write({"a": "1"}))
        two = await self.layer(snapshotter, one, write({"b": "1"}))
        for number, parent in enumerate(("", one, two)):
            with pytest.raises(OSError, match="Read-only"):
                await inside(await snapshotter.view(f"view-{number}", parent), write({"x": "1"}))

    async def test_siblings_do_not_see_each_other(self, snapshotter: Snapshotter) -> None:
        base = await self.layer(snapshotter, "", write({"a": "1"}))
        left, right = await snapshotter.prepare("left", base), await snapshotter.prepare("right", base)
        await inside(left, write({"a": "left", "l": ""}))
        await inside(right, write({"a": "right"}))
        assert await inside(left, tree) == {"a": "left", "l": ""}
        assert await inside(right, tree) == {"a": "right"}
        assert await self.shown(snapshotter, base) == {"a": "1"}
