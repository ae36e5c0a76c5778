"""Snapshots as namespaces see them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from orlopd.core.leases import Resource
from orlopd.core.scope import Scope
from orlopd.core.snapshots import NamespacedSnapshotter
from orlopd.core.store import Store
from orlopd.plugin.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)
from orlopd.plugin.values import NO_LABELS, Labels, SnapshotInfo, SnapshotKind
from tests.support.store import NS, World, keys

OTHER = Scope("other")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def store(world: World) -> AsyncIterator[Store]:
    async with world.open() as store:
        yield store


@pytest.fixture
def mem(store: Store) -> NamespacedSnapshotter:
    return store.snapshots.for_name("mem")


async def test_the_life_of_a_snapshot(mem: NamespacedSnapshotter, world: World) -> None:
    (mount,) = await mem.prepare(NS, "extract", "", {"note": "x", "containerd.io/snapshot/hint": "y"})
    (key,) = world.snapshotter.snapshots
    assert mount.source == f"/nowhere/{key}"
    namespace, number, rest = key.split("/")
    assert (namespace, number.isdecimal(), rest) == ("testing", True, "extract")
    # Only what is meant for the snapshotter reaches it.
    assert dict(world.snapshotter.snapshots[key].labels) == {"containerd.io/snapshot/hint": "y"}
    info = await mem.stat(NS, "extract")
    assert (info.name, info.kind, info.parent) == ("extract", SnapshotKind.ACTIVE, "")
    assert dict(info.labels) == {"note": "x", "containerd.io/snapshot/hint": "y"}

    await mem.commit(NS, "base", "extract", {"done": "1"})
    with pytest.raises(NotFound):
        await mem.stat(NS, "extract")
    info = await mem.stat(NS, "base")
    assert (info.kind, dict(info.labels)) == (SnapshotKind.COMMITTED, {"done": "1"})
    with pytest.raises(FailedPrecondition):
        await mem.mounts(NS, "base")
    await mem.prepare(NS, "box", "base")
    (mount,) = await mem.view(NS, "look", "base")
    assert await mem.mounts(NS, "look") == [mount]
    assert "ro" in mount.options
    assert (await mem.stat(NS, "look")).kind is SnapshotKind.VIEW
    assert (await mem.usage(NS, "box")).size == 100
    with pytest.raises(FailedPrecondition, match="child"):
        await mem.remove(NS, "base")
    await mem.remove(NS, "box")
    await mem.remove(NS, "look")
    await mem.remove(NS, "base")
    with pytest.raises(NotFound):
        await mem.remove(NS, "base")


async def test_names_are_taken_once(mem: NamespacedSnapshotter) -> None:
    await mem.prepare(NS, "a", "")
    for call in (mem.prepare, mem.view):
        with pytest.raises(AlreadyExists):
            await call(NS, "a", "")
    await mem.commit(NS, "base", "a")
    await mem.prepare(NS, "b", "")
    with pytest.raises(AlreadyExists):
        await mem.commit(NS, "base", "b")
    assert (await mem.stat(NS, "b")).kind is SnapshotKind.ACTIVE
    # Other namespaces are none of its business.
    await mem.prepare(OTHER, "b", "")
    assert [info.name async for info in mem.walk(OTHER)] == ["b"]


async def test_only_one_of_many_makes_a_key(mem: NamespacedSnapshotter, world: World) -> None:
    outcomes: list[str] = []

    async def prepare() -> None:
        try:
            await mem.prepare(NS, "box", "")
            outcomes.append("made")
        except AlreadyExists:
            outcomes.append("there")

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(prepare)
    assert (outcomes.count("made"), len(world.snapshotter.snapshots)) == (1, 1)


async def test_a_parent_must_be_there_and_committed(mem: NamespacedSnapshotter) -> None:
    with pytest.raises(NotFound, match="parent snapshot gone"):
        await mem.prepare(NS, "box", "gone")
    await mem.prepare(NS, "active", "")
    with pytest.raises(InvalidArgument, match="not committed"):
        await mem.view(NS, "box", "active")
    with pytest.raises(NotFound):
        await mem.commit(NS, "base", "gone")
    await mem.commit(NS, "base", "active")
    await mem.view(NS, "look", "base")
    with pytest.raises(FailedPrecondition, match="not active"):
        await mem.commit(NS, "seen", "look")
    await mem.prepare(NS, "other", "")
    for parent, error in (("gone", NotFound), ("look", FailedPrecondition), ("base", Unimplemented)):
        with pytest.raises(error):
            await mem.commit(NS, "moved", "other", parent=parent)
    assert not mem.rebases


async def test_a_parent_may_come_at_commit(
    mem: NamespacedSnapshotter, store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    onto: list[str] = []

    async def commit_onto(name: str, key: str, parent: str, labels: Labels = NO_LABELS) -> None:
        onto.append(parent)
        await world.snapshotter.commit(name, key, labels)

    monkeypatch.setattr(world.snapshotter, "rebases", True, raising=False)
    monkeypatch.setattr(world.snapshotter, "commit_onto", commit_onto, raising=False)
    assert mem.rebases
    await mem.prepare(NS, "upper", "")
    await mem.prepare(NS, "lower", "")
    await mem.commit(NS, "base", "lower")
    (backend_base,) = world.snapshotter.snapshots.keys() - {
        key for key in world.snapshotter.snapshots if key.endswith("/upper")
    }
    # Refused by the backend: nothing is changed, and the parent can go.
    world.snapshotter.fail["commit"] = ResourceExhausted("the disk is full")
    with pytest.raises(ResourceExhausted):
        await mem.commit(NS, "moved", "upper", parent="base")
    world.snapshotter.fail.clear()
    assert (await mem.stat(NS, "upper")).parent == ""
    await mem.commit(NS, "moved", "upper", {"containerd.io/gc.root": "x"}, parent="base")
    assert onto == [backend_base] * 2
    assert (await mem.stat(NS, "moved")).parent == "base"
    await store.gc.collect()
    assert (await mem.stat(NS, "base")).kind is SnapshotKind.COMMITTED
    with pytest.raises(FailedPrecondition):
        await mem.remove(NS, "base")
    await mem.prepare(NS, "box", "moved")
    with pytest.raises(InvalidArgument, match="change parent"):
        await mem.commit(NS, "again", "box", parent="base")
    await mem.commit(NS, "again", "box", parent="moved")


async def test_a_parent_removed_meanwhile_is_missed(
    mem: NamespacedSnapshotter, store: Store, world: World
) -> None:
    await mem.prepare(NS, "a", "")
    await mem.commit(NS, "base", "a")
    original = world.snapshotter.prepare

    async def slow(*args: object) -> object:
        mounts = await original(*args)  # type: ignore[arg-type]
        await mem.remove(NS, "base")
        return mounts

    world.snapshotter.prepare = slow  # type: ignore[method-assign]
    with pytest.raises(NotFound):
        await mem.prepare(NS, "box", "base")
    await store.gc.collect()
    assert world.snapshotter.snapshots == {}


async def test_what_fails_leaves_nothing(mem: NamespacedSnapshotter, store: Store, world: World) -> None:
    await store.gc.collect()  # the first one looks for orphans, which would hide what is forgotten here
    world.snapshotter.fail["prepare"] = ResourceExhausted("the disk is full")
    with pytest.raises(ResourceExhausted):
        await mem.prepare(NS, "box", "")
    world.snapshotter.fail = {}
    await mem.prepare(NS, "box", "")
    world.snapshotter.fail["commit"] = ResourceExhausted("the disk is full")
    with pytest.raises(ResourceExhausted):
        await mem.commit(NS, "base", "box")
    world.snapshotter.fail = {}
    assert await keys(store) == {"box"}
    await mem.commit(NS, "base", "box")
    # A backend that has what the core never made is broken, not merely in the way.
    world.snapshotter.fail["prepare"] = AlreadyExists("there")
    with pytest.raises(Internal):
        await mem.prepare(NS, "again", "")
    world.snapshotter.fail = {}
    with pytest.raises(NotFound):
        await mem.prepare(Scope("testing", "no-such-lease"), "leased", "")
    await store.gc.collect()
    assert await keys(store) == set()
    assert world.snapshotter.snapshots == {}


async def test_a_cancelled_prepare_leaves_nothing(
    mem: NamespacedSnapshotter, store: Store, world: World
) -> None:
    await store.gc.collect()
    original = world.snapshotter.prepare

    async def slow(*args: object) -> object:
        mounts = await original(*args)  # type: ignore[arg-type]
        await anyio.sleep(60)
        return mounts

    world.snapshotter.prepare = slow  # type: ignore[method-assign]
    with anyio.move_on_after(0.1):
        await mem.prepare(NS, "box", "")
    assert len(world.snapshotter.snapshots) == 1
    await store.gc.collect()
    assert world.snapshotter.snapshots == {}
    assert not store.gc.unrecorded


@pytest.mark.parametrize("happened", [True, False])
async def test_a_commit_cut_short_is_finished_or_undone(world: World, happened: bool) -> None:
    class Killed(BaseException):
        pass

    async with world.open() as store:
        mem = store.snapshots.for_name("mem")
        await mem.prepare(NS, "base-active", "", {"containerd.io/gc.root": "x"})
        await mem.commit(NS, "base", "base-active")
        await mem.prepare(NS, "active", "base", {"containerd.io/gc.root": "x"})
        world.snapshotter.fail["committed" if happened else "commit"] = Killed()
        # As if the process had died there: nothing after it is written.
        written = store.db.write

        async def dead(change: object) -> object:
            raise Killed

        async def begin_only(change: object) -> object:
            store.db.write = dead  # type: ignore[method-assign]
            return await written(change)  # type: ignore[arg-type]

        store.db.write = begin_only  # type: ignore[method-assign]
        with pytest.raises(Killed):
            await mem.commit(NS, "top", "active", {"containerd.io/gc.root": "x"})
    world.snapshotter.fail = {}
    async with world.open() as store:
        mem = store.snapshots.for_name("mem")
        await store.gc.collect()
        assert await keys(store) == {"base", "top" if happened else "active"}
        info = await mem.stat(NS, "top" if happened else "active")
        assert (info.parent, info.kind is SnapshotKind.COMMITTED) == ("base", happened)
        assert len(world.snapshotter.snapshots) == 2
        if not happened:
            await mem.commit(NS, "top", "active")


async def test_a_commit_under_way_is_not_collected(world: World) -> None:
    async with world.open() as store:
        mem = store.snapshots.for_name("mem")
        scope = Scope("testing", (await store.leases.create(NS)).id)
        await mem.prepare(scope, "active", "")
        original, done, release = world.snapshotter.commit, anyio.Event(), anyio.Event()

        async def slow(*args: object) -> None:
            await original(*args)  # type: ignore[arg-type]
            done.set()
            await release.wait()

        world.snapshotter.commit = slow  # type: ignore[method-assign]
        async with anyio.create_task_group() as group:
            group.start_soon(mem.commit, scope, "base", "active")
            await done.wait()
            # The first collection looks for data that no metadata knows.
            await store.gc.collect()
            release.set()
        assert (await mem.stat(NS, "base")).kind is SnapshotKind.COMMITTED


async def test_leases_hold_what_is_made(mem: NamespacedSnapshotter, store: Store) -> None:
    lease = await store.leases.create(NS)
    scope = Scope("testing", lease.id)

    async def held() -> list[Resource]:
        return list(await store.leases.list_resources(NS, lease.id))

    await mem.prepare(scope, "box", "")
    assert await held() == [Resource("snapshots/mem", "box")]
    await mem.commit(scope, "base", "box")
    assert await held() == [Resource("snapshots/mem", "base")]
    await mem.remove(scope, "base")
    assert await held() == []
    await mem.prepare(NS, "there", "")
    with pytest.raises(AlreadyExists):
        await mem.prepare(scope, "there", "")
    assert await held() == [Resource("snapshots/mem", "there")]


async def test_a_remote_snapshot_is_taken_over(
    mem: NamespacedSnapshotter, store: Store, world: World
) -> None:
    world.snapshotter.remote.add("chain-1")
    scope = Scope("testing", (await store.leases.create(NS)).id)
    labels = {"containerd.io/snapshot.ref": "chain-1", "note": "x"}
    with pytest.raises(AlreadyExists, match="target snapshot"):
        await mem.prepare(scope, "extract-1", "", labels)
    info = await mem.stat(NS, "chain-1")
    assert (info.kind, info.labels["note"]) == (SnapshotKind.COMMITTED, "x")
    await store.gc.collect()
    assert await keys(store) == {"chain-1"}
    with pytest.raises(AlreadyExists):
        await mem.prepare(scope, "extract-2", "", labels)
    assert list(world.snapshotter.snapshots) == ["remote-chain-1"]


async def test_labels_change_by_mask(mem: NamespacedSnapshotter, world: World) -> None:
    await mem.prepare(NS, "box", "", {"a": "1", "containerd.io/snapshot/x": "1"})
    (key,) = world.snapshotter.snapshots
    own = {**world.snapshotter.snapshots[key].labels, "of.the.backend": "1"}
    await world.snapshotter.set_labels(key, own)
    wanted = SnapshotInfo("box", SnapshotKind.ACTIVE, labels={"a": "2", "containerd.io/snapshot/x": "2"})
    info = await mem.update(NS, wanted, ["labels.a"])
    assert dict(info.labels) == {"a": "2", "containerd.io/snapshot/x": "1", "of.the.backend": "1"}
    info = await mem.update(NS, wanted)
    assert info.labels["containerd.io/snapshot/x"] == "2"
    assert world.snapshotter.snapshots[key].labels == {"containerd.io/snapshot/x": "2", "of.the.backend": "1"}
    for paths in (["parent"], ["kind"], ["name"]):
        with pytest.raises(InvalidArgument):
            await mem.update(NS, wanted, paths)
    with pytest.raises(NotFound):
        await mem.update(NS, SnapshotInfo("gone", SnapshotKind.ACTIVE))


async def test_a_list_is_filtered_and_whole(
    mem: NamespacedSnapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orlopd.core.snapshotter._PAGE", 2)
    await mem.prepare(NS, "a", "", {})
    await mem.commit(NS, "base", "a", {"x": "1"})
    for key in ("b", "c", "d"):
        await mem.prepare(NS, key, "base")
    await mem.view(NS, "v", "base")

    async def found(*filters: str) -> list[str]:
        return [info.name async for info in mem.walk(NS, filters)]

    assert await found() == ["b", "base", "c", "d", "v"]
    assert await found("kind==committed") == ["base"]
    assert await found("kind==view") == ["v"]
    assert await found('parent==""') == ["base"]
    assert await found("parent==base,name!=c") == ["b", "d", "v"]
    assert await found("labels.x") == ["base"]


async def test_snapshotters_by_name(store: Store) -> None:
    assert store.snapshots.for_name("memory").name == "mem"
    for name in ("", "nope"):
        with pytest.raises(InvalidArgument):
            store.snapshots.for_name(name)
    with pytest.raises(InvalidArgument, match="snapshotter not loaded: nope") as caught:
        store.snapshots.for_name("nope")
    assert "mem" in caught.value.hint


async def test_without_a_name_the_default_is_meant(world: World) -> None:
    async with world.open(default_snapshotter="memory") as store:
        assert store.snapshots.for_name("").name == "mem"
