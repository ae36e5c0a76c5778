"""The kit for snapshotters: what any snapshotter must show, seen through real mounts."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from orlopd.plugin.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from orlopd.plugin.mount import mounted
from orlopd.plugin.snapshots import RebasingSnapshotter, Snapshotter
from orlopd.plugin.values import Mount, SnapshotKind

from ._open import Factory, close_part, open_part, opened

T = TypeVar("T")


async def inside(mounts: Sequence[Mount], work: Callable[[Path], T]) -> T:
    """What ``work`` returns when it is called, in a thread, with the folder that shows ``mounts``."""

    def job() -> T:
        with mounted(mounts) as root:
            return work(root)

    return await anyio.to_thread.run_sync(job)


def tree(root: Path) -> dict[str, str]:
    """Every path below ``root``; with what is in it for a file, "/" for a directory."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "/" if path.is_dir() else path.read_text()
    return found


def write(files: dict[str, str | None]) -> Callable[[Path], None]:
    """A job that writes files; "/" makes a directory, None removes."""

    def job(root: Path) -> None:
        for name, content in files.items():
            path = root / name
            if content is None:
                path.rmdir() if path.is_dir() else path.unlink()
            elif content == "/":
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)

    return job


@pytest.mark.anyio
class SnapshotterKit:
    """Derive from it and define the fixture ``factory``."""

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

    # Files.

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
            os.utime(folder, ns=(0, 5_000_000_000))

        def look(root: Path) -> list[tuple[Any, ...]]:
            rows: list[tuple[Any, ...]] = []
            for name in ("file", "folder", "link", "fifo"):
                info = (root / name).lstat()
                rows.append((name, info.st_mode, info.st_uid, info.st_gid))
            rows.append((os.getxattr(root / "file", "user.colour"), (root / "file").stat().st_mtime_ns))
            rows.append(((root / "folder").stat().st_mtime_ns,))
            return rows

        one = await self.layer(snapshotter, "", make)
        two = await self.layer(snapshotter, one, write({"other": ""}))
        before = await self.shown(snapshotter, one, look)
        assert await self.shown(snapshotter, two, look) == before
        assert before == [
            ("file", stat.S_IFREG | 0o4755, 1000, 1001),
            ("folder", stat.S_IFDIR | 0o1777, 7, 8),
            ("link", stat.S_IFLNK | 0o777, 5, 6),
            ("fifo", stat.S_IFIFO | 0o640, 0, 0),
            (b"blue", 1_234_567_890_123_456_789),
            (5_000_000_000,),
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
            small = (root / "sparse").stat().st_blocks * 512 < 1 << 20
            return (root / "one").samefile(root / "two"), middle, small

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

    # Bookkeeping.

    async def test_stat_tells_the_kind_and_the_parent(self, snapshotter: Snapshotter) -> None:
        base = await self.layer(snapshotter, "", write({}), "base")
        await snapshotter.prepare("active", base, {"colour": "blue"})
        await snapshotter.view("view", base)
        said = {key: await snapshotter.stat(key) for key in ("base", "active", "view")}
        assert [(info.name, info.kind, info.parent) for info in said.values()] == [
            ("base", SnapshotKind.COMMITTED, ""),
            ("active", SnapshotKind.ACTIVE, "base"),
            ("view", SnapshotKind.VIEW, "base"),
        ]
        assert dict(said["active"].labels) == {"colour": "blue"}
        assert dict(said["base"].labels) == {}

    async def test_labels_are_replaced_as_a_whole(self, snapshotter: Snapshotter) -> None:
        await snapshotter.prepare("active", "", {"a": "1", "b": "2"})
        before = await snapshotter.stat("active")
        after = await snapshotter.set_labels("active", {"c": "3"})
        assert after == await snapshotter.stat("active")
        assert dict(after.labels) == {"c": "3"}
        assert after.created_at == before.created_at
        assert after.updated_at >= before.updated_at

    async def test_commit_takes_its_own_labels(self, snapshotter: Snapshotter) -> None:
        await snapshotter.prepare("active", "", {"a": "1"})
        await snapshotter.commit("done", "active", {"b": "2"})
        assert dict((await snapshotter.stat("done")).labels) == {"b": "2"}

    async def test_walk_shows_parents_before_children(self, snapshotter: Snapshotter) -> None:
        one = await self.layer(snapshotter, "", write({}), "one")
        two = await self.layer(snapshotter, one, write({}), "two")
        await snapshotter.prepare("top", two)
        await snapshotter.view("view", one)
        infos = [info async for info in snapshotter.walk()]
        names = [info.name for info in infos]
        assert sorted(names) == ["one", "top", "two", "view"]
        for info in infos:
            assert not info.parent or names.index(info.parent) < names.index(info.name)
        assert infos == [await snapshotter.stat(name) for name in names]

    async def test_mounts_are_what_prepare_said(self, snapshotter: Snapshotter) -> None:
        base = await self.layer(snapshotter, "", write({"a": ""}))
        for key, make in (("active", snapshotter.prepare), ("view", snapshotter.view)):
            assert list(await make(key, base)) == list(await snapshotter.mounts(key))

    async def test_what_is_missing_is_not_found(self, snapshotter: Snapshotter) -> None:
        for call in (
            snapshotter.stat("missing"),
            snapshotter.mounts("missing"),
            snapshotter.usage("missing"),
            snapshotter.remove("missing"),
            snapshotter.commit("name", "missing"),
            snapshotter.set_labels("missing", {}),
            snapshotter.prepare("key", "missing"),
            snapshotter.view("key", "missing"),
        ):
            with pytest.raises(NotFound):
                await call
        assert [info async for info in snapshotter.walk()] == []

    async def test_a_key_is_taken_once(self, snapshotter: Snapshotter) -> None:
        base = await self.layer(snapshotter, "", write({}), "base")
        await snapshotter.prepare("key", base)
        for call in (
            snapshotter.prepare("key", base),
            snapshotter.view("key", ""),
            snapshotter.prepare("base", ""),
            snapshotter.commit("base", "key"),
        ):
            with pytest.raises(AlreadyExists):
                await call

    async def test_only_active_snapshots_are_committed(self, snapshotter: Snapshotter) -> None:
        base = await self.layer(snapshotter, "", write({}), "base")
        await snapshotter.view("view", base)
        for key in ("view", "base"):
            with pytest.raises(FailedPrecondition):
                await snapshotter.commit("name", key)
        with pytest.raises(FailedPrecondition):
            await snapshotter.mounts("base")

    async def test_only_committed_snapshots_have_children(self, snapshotter: Snapshotter) -> None:
        await snapshotter.prepare("active", "")
        await snapshotter.view("view", "")
        for parent in ("active", "view"):
            with pytest.raises(FailedPrecondition):
                await snapshotter.prepare("child", parent)

    async def test_a_key_is_free_after_its_commit(self, snapshotter: Snapshotter) -> None:
        await snapshotter.prepare("key", "")
        await snapshotter.commit("one", "key")
        with pytest.raises(NotFound):
            await snapshotter.stat("key")
        await snapshotter.prepare("key", "one")
        await snapshotter.commit("two", "key")
        assert (await snapshotter.stat("two")).parent == "one"

    async def test_a_parent_may_come_at_commit(self, snapshotter: Snapshotter) -> None:
        top = await snapshotter.prepare("top", "")
        base = await self.layer(snapshotter, "", write({"a": "1", "d/x": "1"}), "base")
        await inside(top, write({"b": "2", "d/y": "2"}))
        if not isinstance(snapshotter, RebasingSnapshotter) or not snapshotter.rebases:
            await snapshotter.commit("alone", "top")
            return
        for parent, error in (("missing", NotFound), ("top", FailedPrecondition)):
            with pytest.raises(error):
                await snapshotter.commit_onto("moved", "top", parent)
        await snapshotter.commit_onto("moved", "top", base, {"k": "v"})
        assert (await snapshotter.stat("moved")).parent == base
        both = {"a": "1", "b": "2", "d": "/", "d/x": "1", "d/y": "2"}
        assert await self.shown(snapshotter, "moved") == both
        names = [info.name async for info in snapshotter.walk()]
        assert names == [base, "moved"]
        with pytest.raises(FailedPrecondition):
            await snapshotter.remove(base)
        other = await self.layer(snapshotter, "", write({}), "other")
        await snapshotter.prepare("child", base)
        with pytest.raises(InvalidArgument):
            await snapshotter.commit_onto("again", "child", other)
        await snapshotter.commit_onto("again", "child", base)

    async def test_a_parent_outlives_its_children(self, snapshotter: Snapshotter) -> None:
        base = await self.layer(snapshotter, "", write({"a": "1"}), "base")
        await snapshotter.prepare("child", base)
        with pytest.raises(FailedPrecondition):
            await snapshotter.remove(base)
        assert await inside(await snapshotter.mounts("child"), tree) == {"a": "1"}
        await snapshotter.remove("child")
        await snapshotter.remove(base)
        assert [info async for info in snapshotter.walk()] == []

    async def test_removed_files_are_gone_from_disk(self, snapshotter: Snapshotter, tmp_path: Path) -> None:
        def deep(root: Path) -> None:
            path = root
            for _ in range(40):
                path /= "a-directory-with-a-long-name" * 2
                path.mkdir()
            (path / "marker").write_text("x" * 4096)

        base = await self.layer(snapshotter, "", deep, "base")
        await inside(await snapshotter.prepare("top", base), write({"marker": "x"}))
        await snapshotter.remove("top")
        await snapshotter.remove("base")
        await snapshotter.cleanup()
        assert await anyio.to_thread.run_sync(lambda: list(tmp_path.rglob("marker"))) == []

    async def test_usage_follows_an_active_snapshot(self, snapshotter: Snapshotter) -> None:
        mounts = await snapshotter.prepare("active", "")
        before = await snapshotter.usage("active")

        def fill(root: Path) -> None:
            for number in range(16):
                (root / f"file-{number}").write_bytes(os.urandom(65536))

        await inside(mounts, fill)
        after = await snapshotter.usage("active")
        assert after.size - before.size >= 1 << 20
        assert after.inodes - before.inodes >= 16
        await snapshotter.commit("done", "active")
        assert (await snapshotter.usage("done")).size >= 1 << 20

    # Concurrency and crashes.

    async def test_many_prepare_on_one_parent_at_once(self, snapshotter: Snapshotter) -> None:
        base = await self.layer(snapshotter, "", write({"a": "1"}))
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(snapshotter.prepare, f"key-{number}", base)
        shown = [await inside(await snapshotter.mounts(f"key-{number}"), tree) for number in (0, 7, 19)]
        assert shown == [{"a": "1"}] * 3

    async def test_one_of_many_gets_the_key(self, snapshotter: Snapshotter) -> None:
        results: list[str] = []

        async def attempt() -> None:
            try:
                await snapshotter.prepare("key", "")
                results.append("made")
            except AlreadyExists:
                results.append("taken")

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(attempt)
        assert sorted(results) == ["made", *["taken"] * 7]
        assert await inside(await snapshotter.mounts("key"), tree) == {}

    async def test_everything_is_there_after_a_crash(
        self, factory: Factory[Snapshotter], tmp_path: Path
    ) -> None:
        first = await open_part(factory, tmp_path)
        base = await self.layer(first, "", write({"a": "1"}))
        await inside(await first.prepare("top", base, {"k": "v"}), write({"b": "2"}))
        seen = [info async for info in first.walk()]
        try:
            # The first one was not closed: nobody closes it in a crash.
            async with opened(factory, tmp_path) as second:
                await second.cleanup()
                assert [info async for info in second.walk()] == seen
                assert await inside(await second.mounts("top"), tree) == {"a": "1", "b": "2"}
                await second.prepare("new", base)
        finally:
            await close_part(first)
