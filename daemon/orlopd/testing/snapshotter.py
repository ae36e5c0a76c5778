"""The kit for snapshotters: what any snapshotter must show, seen through real mounts."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from orlopd.plugin.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from orlopd.plugin.snapshots import RebasingSnapshotter, Snapshotter
from orlopd.plugin.values import SnapshotKind

from ._open import Factory, close_part, open_part, opened
from ._snapshot_files import SnapshotFilesKit
from ._trees import inside, tree, write

__all__ = ["Factory", "SnapshotterKit", "inside", "tree", "write"]


@pytest.mark.anyio
class SnapshotterKit(SnapshotFilesKit):
    """Derive from it and define the fixture ``factory``."""

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

    async def test_a_chain_is_removed_from_the_top(self, snapshotter: Snapshotter) -> None:
        names = [""]
        for number in range(4):
            names.append(await self.layer(snapshotter, names[-1], write({f"file-{number}": ""})))
        for name in names[1:-1]:
            with pytest.raises(FailedPrecondition):
                await snapshotter.remove(name)
        assert len(await self.shown(snapshotter, names[-1])) == 4
        for name in reversed(names[1:]):
            await snapshotter.remove(name)
            with pytest.raises(NotFound):
                await snapshotter.stat(name)
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
