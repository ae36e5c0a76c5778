"""When collections run, beside what, and what is told of them."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from orlopd.core.blobs import ContentInfo
from orlopd.core.gc import Collected, in_words
from orlopd.core.scope import Scope
from orlopd.core.store import Store
from orlopd.plugin.values import now
from tests.support.store import NS, OTHER, PAST, World, chain, eventually, put, put_image


async def test_swept_images_and_snapshots_are_told(store: Store) -> None:
    await put_image(store, "old", await put(store, b"x"), {"expire": PAST})
    await chain(store, "loose")
    async with store.events.subscribe() as events:
        await store.gc.collect()
        seen = [await anext(events), await anext(events)]
    assert [(event.topic, dict(event.fields)) for event in seen] == [
        ("/images/delete", {"name": "old"}),
        ("/snapshot/remove", {"key": "loose", "snapshotter": "mem"}),
    ]
    assert seen[0].message == "containerd.services.images.v1.ImageDelete"


async def test_deletions_cause_a_collection_by_themselves(world: World) -> None:
    async with world.open(gc_startup_delay=0) as store:
        blob = await put(store, b"blob", {"root": "x"})
        await put_image(store, "image", blob)
        await store.content.update(NS, ContentInfo(blob), ["labels.containerd.io/gc.root"])
        await store.images.delete(NS, "image")
        await eventually(lambda: not world.blobs)


async def test_an_expiry_causes_a_collection_by_itself(world: World) -> None:
    async with world.open(gc_startup_delay=0) as store:
        await eventually(
            lambda: store.gc._done == 1
        )  # the collection at the start, which would see the lease
        soon = now() + timedelta(seconds=1)
        lease = await store.leases.create(NS, labels={"containerd.io/gc.expire": soon.isoformat()})
        await put(store, b"blob", scope=Scope("testing", lease.id))
        await anyio.sleep(0.3)
        assert len(world.blobs) == 1 or now() > soon
        await eventually(lambda: not world.blobs)


async def test_many_changes_cause_a_collection_by_themselves(world: World) -> None:
    async with world.open(gc_startup_delay=0) as store:
        await eventually(lambda: store.gc._done == 1)
        await put(store, b"loose")
        await anyio.sleep(0.5)
        assert len(world.blobs) == 1
        for number in range(100):
            await store.namespaces.update(NS, "testing", {"number": str(number)})
        await eventually(lambda: not world.blobs)


async def test_collections_asked_for_together_share_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = 0
    original = store.gc._collect

    async def counted() -> object:
        nonlocal runs
        runs += 1
        return await original()

    monkeypatch.setattr(store.gc, "_collect", counted)
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(store.gc.collect)
    assert runs <= 2


async def test_commits_and_collections_side_by_side_lose_nothing(store: Store) -> None:
    """The same few blobs come and go in two namespaces while collections run all the time."""
    failures: list[str] = []
    done = anyio.Event()

    async def bring(scope: Scope) -> None:
        for turn in range(40):
            data = str(turn % 4).encode()
            digest = await put(store, data, {"root": "x"}, scope=scope)
            if await store.content.read_blob(scope, digest, 10) != data:
                failures.append(digest)
            await store.content.delete(scope, digest)

    async def collect() -> None:
        while not done.is_set():
            await store.gc.collect()

    async with anyio.create_task_group() as group:
        group.start_soon(collect)
        async with anyio.create_task_group() as writers:
            writers.start_soon(bring, NS)
            writers.start_soon(bring, OTHER)
        done.set()
    assert not failures


async def test_snapshots_that_are_being_made_are_not_collected(world: World) -> None:
    release, waiting = anyio.Event(), anyio.Event()
    backend = world.snapshotter
    original = backend.prepare

    async def slow(*args: object) -> object:
        mounts = await original(*args)  # type: ignore[arg-type]
        waiting.set()
        await release.wait()
        return mounts

    backend.prepare = slow  # type: ignore[method-assign]
    async with world.open() as store:
        lease = await store.leases.create(NS)
        async with anyio.create_task_group() as group:
            scope = Scope("testing", lease.id)
            group.start_soon(store.snapshots.for_name("mem").prepare, scope, "box")
            await waiting.wait()
            # The first collection looks for data that no metadata knows.
            await store.gc.collect()
            release.set()
        await store.gc.collect()
        assert len(backend.snapshots) == 1
        await store.snapshots.for_name("mem").stat(NS, "box")


@pytest.mark.parametrize(
    ("collected", "words"),
    [
        (
            Collected({"snapshots": 2, "contents": 3}, 5, 1 << 20, 0.05),
            "collected: 3 blobs (1.0 MiB), 2 snapshots in 0.05 s",
        ),
        (Collected({"contents": 1}, 1, 1, 0.0), "collected: 1 blob (1 byte) in 0.00 s"),
        (Collected({"contents": 1}, 0, 0, 0.0), "collected: 1 blob in 0.00 s"),
        (
            Collected({"leases": 1}, 2, 1536, 1.0),
            "collected: 1 lease, 1.5 KiB of blobs deleted before in 1.00 s",
        ),
        (Collected({}, 1, 0, 0.0), "collected: the data of 1 deleted before in 0.00 s"),
    ],
)
def test_a_collection_in_words(collected: Collected, words: str) -> None:
    assert in_words(collected) == words
