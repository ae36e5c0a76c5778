"""Garbage collection: what stays, what goes, and that nothing goes too early."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlopd.core import schema
from orlopd.core.blobs import ContentInfo
from orlopd.core.gc import Collected, in_words
from orlopd.core.leases import Resource
from orlopd.core.scope import Scope
from orlopd.core.store import Store
from orlopd.plugin.errors import FailedPrecondition, OrlopError
from orlopd.plugin.values import Container, TypedBytes, now, sha256
from tests.support.store import NS, World, digests, eventually, keys, put, put_image

PAST = (now() - timedelta(hours=1)).isoformat()
FUTURE = (now() + timedelta(hours=1)).isoformat()
OTHER = Scope("other")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def store(world: World) -> AsyncIterator[Store]:
    async with world.open() as store:
        yield store


async def chain(store: Store, *names: str, scope: Scope = NS) -> None:
    """Commit snapshots one upon the other."""
    snapshotter = store.snapshots.for_name("mem")
    parent = ""
    for name in names:
        await snapshotter.prepare(scope, f"{name}-active", parent)
        await snapshotter.commit(scope, name, f"{name}-active")
        parent = name


async def test_what_nothing_refers_to_goes_with_its_bytes(store: Store, world: World) -> None:
    await put(store, b"loose")
    await chain(store, "loose")
    result = await store.gc.collect()
    assert (await digests(store), await keys(store)) == (set(), set())
    assert (world.blobs, world.snapshotter.snapshots) == (set(), {})
    assert result.removed == {"contents": 1, "snapshots": 1}
    assert (result.deleted, result.freed) == (2, 5)


async def test_an_image_keeps_its_tree(store: Store, world: World) -> None:
    layer, config = await put(store, b"layer"), await put(store, b"config", {"ref.snapshot.mem": "top"})
    manifest = await put(store, b"manifest", {"ref.content.l.0": layer, "ref.content.config": config})
    index = await put(store, b"index", {"ref.content.m.0": manifest})
    stray = await put(store, b"stray")
    await chain(store, "base", "middle", "top", "above")
    await put_image(store, "image", index)
    await store.gc.collect()
    assert await digests(store) == {index, manifest, config, layer}
    # Parents are kept, what was made on top is not.
    assert await keys(store) == {"base", "middle", "top"}
    assert stray not in world.blobs

    await store.images.delete(NS, "image", sync=True)
    assert (await digests(store), await keys(store), world.blobs) == (set(), set(), set())
    assert world.snapshotter.snapshots == {}


@pytest.mark.parametrize(
    ("label", "kept"),
    [
        ("ref.content", True),
        ("ref.content.m.0", True),
        ("ref.content/config", True),
        ("ref.contents", False),
        ("ref.contentious.0", False),
        ("reference.content", False),
    ],
)
async def test_only_well_formed_references_count(store: Store, label: str, kept: bool) -> None:
    child = await put(store, b"child")
    parent = await put(store, b"parent", {"root": "x", label: child})
    await store.gc.collect()
    assert await digests(store) == ({parent, child} if kept else {parent})


async def test_names_of_any_kind_are_kept(store: Store) -> None:
    """What SQL and the graph could take for their own means nothing in a name."""
    names = ["a/b/c", "%_'\"--", "s:x", "C:UPPER", "\n\t", "ünïcödé", "i:", "x" * 4000, "0"]
    snapshotter = store.snapshots.for_name("mem")
    digest = await put(store, b"blob")
    lease = Scope("testing", (await store.leases.create(NS, "s:odd/'lease")).id)
    for name in names:
        await put_image(store, name, digest)
        await snapshotter.prepare(lease, name, "")
        async with await store.content.ingest(lease, name):
            pass
    await store.gc.collect()
    assert {image.name for image in await store.images.list(NS)} == set(names)
    assert await keys(store) == set(names)
    assert {status.ref for status in await store.content.statuses(NS)} == set(names)
    for name in names:
        await store.images.delete(NS, name)
    await store.leases.delete(NS, lease.lease)
    await store.gc.collect()
    assert (await digests(store), await keys(store)) == (set(), set())


async def test_root_labels_keep_content_and_snapshots(store: Store) -> None:
    rooted = await put(store, b"rooted", {"root": "2020-01-01T00:00:00Z"})
    snapshotter = store.snapshots.for_name("mem")
    await snapshotter.prepare(NS, "rooted", "", {"containerd.io/gc.root": "x"})
    await snapshotter.prepare(NS, "loose", "")
    await store.gc.collect()
    assert (await digests(store), await keys(store)) == ({rooted}, {"rooted"})


@pytest.mark.parametrize(
    ("label", "value", "kept"),
    [
        ("root", "x", True),
        ("root.mine", "x", True),
        ("root/mine", "x", True),
        ("roots", "x", True),
        ("roo", "x", False),
        ("root", "", False),
    ],
)
async def test_a_label_that_begins_as_a_root_s_is_one(
    store: Store, label: str, value: str, kept: bool
) -> None:
    """containerd goes by how the label begins, and keeps no label without a value."""
    blob = await put(store, b"blob", {label: value})
    await store.snapshots.for_name("mem").prepare(NS, "key", "", {f"containerd.io/gc.{label}": value})
    await store.gc.collect()
    assert (await digests(store), await keys(store)) == (({blob}, {"key"}) if kept else (set(), set()))


async def test_an_image_is_not_kept_by_a_root_label(store: Store) -> None:
    blob = await put(store, b"blob")
    await put_image(store, "old", blob, {"expire": PAST, "root": "x"})
    await store.gc.collect()
    assert (await store.images.list(NS), await digests(store)) == ([], set())


async def test_a_label_that_is_taken_away_keeps_no_more(store: Store) -> None:
    child = await put(store, b"child")
    parent = await put(store, b"parent", {"root": "x", "ref.content": child})
    await store.content.update(NS, ContentInfo(parent), ["labels.containerd.io/gc.ref.content"])
    await store.gc.collect()
    assert await digests(store) == {parent}


async def test_back_references_keep_with_their_owner(store: Store) -> None:
    target = await put(store, b"target")
    attached = await put(store, b"signature", {"bref.content": target})
    of_image = await put(store, b"note", {"bref.image": "image"})
    of_container = await put(store, b"c", {"bref.container": "box"})
    under = await put(store, b"s", {"bref.snapshot.mem": "box"})
    await put_image(store, "image", target)
    await store.snapshots.for_name("mem").prepare(NS, "box", "")
    await store.containers.create(
        NS, Container("box", "runc", spec=TypedBytes("t", b""), snapshotter="mem", snapshot_key="box")
    )
    await store.gc.collect()
    assert await digests(store) == {target, attached, of_image, of_container, under}
    await store.images.delete(NS, "image")
    await store.containers.delete(NS, "box")
    await store.gc.collect()
    assert await digests(store) == set()


async def test_a_container_keeps_its_snapshot_and_not_its_image(store: Store) -> None:
    await chain(store, "base")
    await store.snapshots.for_name("mem").prepare(NS, "box", "base")
    manifest = await put(store, b"manifest")
    container = Container(
        "box", "runc", image="image", spec=TypedBytes("t", b"{}"), snapshotter="mem", snapshot_key="box"
    )
    await store.containers.create(NS, container)
    await store.gc.collect()
    assert (await keys(store), await digests(store)) == ({"base", "box"}, set())
    assert manifest
    await store.containers.delete(NS, "box")
    await store.gc.collect()
    assert await keys(store) == set()


async def test_an_alias_of_a_snapshotter_is_as_good(store: Store) -> None:
    await chain(store, "base", "top")
    await put(store, b"config", {"root": "x", "ref.snapshot.memory": "top"})
    lease = await store.leases.create(NS)
    await chain(store, "leased")
    await store.leases.add_resource(NS, lease.id, Resource("snapshots/memory", "leased"))
    await store.gc.collect()
    assert await keys(store) == {"base", "top", "leased"}


async def test_namespaces_do_not_keep_for_one_another(store: Store, world: World) -> None:
    mine = await put(store, b"blob")
    await put(store, b"blob", scope=OTHER)
    await put_image(store, "image", mine, scope=OTHER)
    await store.gc.collect()
    assert (await digests(store), await digests(store, OTHER)) == (set(), {mine})
    # The bytes are still the other's.
    assert world.blobs == {mine}


async def test_a_lease_keeps_until_it_ends(store: Store, world: World) -> None:
    lease = await store.leases.create(NS)
    scope = Scope("testing", lease.id)
    child = await put(store, b"child")
    blob = await put(store, b"blob", {"ref.content": child}, scope=scope)
    await store.snapshots.for_name("mem").prepare(scope, "box", "")
    async with await store.content.ingest(scope, "half") as ingest:
        await ingest.write(b"half")
    await store.gc.collect()
    assert (await digests(store), await keys(store)) == ({blob, child}, {"box"})
    assert len(await store.content.statuses(NS)) == 1
    await store.leases.delete(NS, lease.id, sync=True)
    assert (world.blobs, world.ingests, world.snapshotter.snapshots) == (set(), 0, {})
    assert await store.content.statuses(NS) == []


async def test_a_flat_lease_keeps_no_references_but_parents(store: Store) -> None:
    child = await put(store, b"child")
    blob = await put(store, b"blob", {"ref.content": child})
    await chain(store, "base")
    snapshotter = store.snapshots.for_name("mem")
    await snapshotter.prepare(NS, "box", "base", {"containerd.io/gc.ref.content": child})
    manifest = await put(store, b"manifest", {"ref.content": child})
    await put_image(store, "image", manifest, {"expire": PAST})
    lease = await store.leases.create(NS, labels={"containerd.io/gc.flat": "yes"})
    for resource in (
        Resource("content", blob),
        Resource("snapshots/mem", "box"),
        Resource("images", "image"),
    ):
        await store.leases.add_resource(NS, lease.id, resource)
    await store.gc.collect()
    assert await digests(store) == {blob, manifest}
    assert await keys(store) == {"base", "box"}
    assert [image.name for image in await store.images.list(NS)] == ["image"]


async def test_expired_leases_and_images_go(store: Store) -> None:
    expired = Scope("testing", (await store.leases.create(NS, "old", {"containerd.io/gc.expire": PAST})).id)
    await store.leases.create(NS, "new", {"containerd.io/gc.expire": FUTURE})
    odd = Scope("testing", (await store.leases.create(NS, "odd", {"containerd.io/gc.expire": "soon"})).id)
    await put(store, b"old", scope=expired)
    kept = await put(store, b"odd", scope=odd)
    old_image = await put(store, b"old image")
    new_image = await put(store, b"new image")
    await put_image(store, "old", old_image, {"expire": PAST})
    await put_image(store, "new", new_image, {"expire": FUTURE})
    await store.gc.collect()
    assert [lease.id for lease in await store.leases.list(NS)] == ["new", "odd"]
    assert [image.name for image in await store.images.list(NS)] == ["new"]
    assert await digests(store) == {kept, new_image}


async def test_an_expired_image_stays_while_a_lease_holds_it(store: Store) -> None:
    lease = await store.leases.create(NS)
    blob = await put(store, b"image")
    await put_image(store, "image", blob, {"expire": PAST}, scope=Scope("testing", lease.id))
    await store.gc.collect()
    assert await digests(store) == {blob}
    await store.leases.delete(NS, lease.id, sync=True)
    assert (await digests(store), await store.images.list(NS)) == (set(), [])


async def test_an_ingest_without_a_lease_stays_a_day(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await store.content.ingest(NS, "half") as ingest:
        await ingest.write(b"half")
    await store.gc.collect()
    assert len(await store.content.statuses(NS)) == 1
    monkeypatch.setattr("orlopd.core.sweep.now", lambda: now() + timedelta(hours=25))
    await store.gc.collect()
    assert (await store.content.statuses(NS), world.ingests) == ([], 0)


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
        await anyio.sleep(0.5)  # past the collection at the start, which would see the lease
        soon = (now() + timedelta(seconds=1)).isoformat()
        lease = await store.leases.create(NS, labels={"containerd.io/gc.expire": soon})
        await put(store, b"blob", scope=Scope("testing", lease.id))
        await anyio.sleep(0.3)
        assert len(world.blobs) == 1
        await eventually(lambda: not world.blobs)


async def test_many_changes_cause_a_collection_by_themselves(world: World) -> None:
    async with world.open(gc_startup_delay=0) as store:
        await anyio.sleep(0.5)
        await put(store, b"loose")
        await anyio.sleep(0.5)
        assert len(world.blobs) == 1
        for number in range(100):
            await store.namespaces.update(NS, "testing", {"number": str(number)})
        await eventually(lambda: not world.blobs)


async def test_what_goes_again_while_its_note_is_worked_off_is_not_forgotten(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    remover = store.gc._data
    strike_off = remover._strike_off
    await store.gc.collect()
    await store.content.delete(NS, await put(store, b"again"))

    async def late(notes: list[object]) -> None:
        if notes:
            monkeypatch.undo()
            await store.content.delete(NS, await put(store, b"again"))
        await strike_off(notes)  # type: ignore[arg-type]

    monkeypatch.setattr(remover, "_strike_off", late)
    await store.gc.collect()
    assert len(world.blobs) == 1
    await store.gc.collect()
    assert world.blobs == set()


async def test_a_shared_ingest_keeps_what_it_stands_for(store: Store) -> None:
    digest = await put(store, b"blob", {"root": "x"})
    async with await store.content.ingest(OTHER, "ref", expected=digest):
        await put(store, b"blob", scope=OTHER)
        await store.gc.collect()
        assert await digests(store, OTHER) == {digest}


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


async def test_data_that_a_crash_left_goes_at_the_next_start(world: World) -> None:
    async with world.open() as store:
        kept = await put(store, b"kept", {"root": "x"})
        content = store.content._store
        async with await content.ingest("lost") as ingest:
            await ingest.write(b"lost")
            await ingest.commit()
        async with await content.ingest("half") as ingest:
            await ingest.write(b"half")
        await world.snapshotter.prepare("testing/1/lost", "")
        await world.snapshotter.commit("testing/2/lost", "testing/1/lost")
        await world.snapshotter.prepare("testing/3/lost", "testing/2/lost")
    async with world.open() as store:
        await store.gc.collect()
    assert (world.blobs, world.ingests, world.snapshotter.snapshots) == ({kept}, 0, {})


async def test_what_a_store_refuses_is_tried_again(store: Store, world: World) -> None:
    await chain(store, "loose")
    world.snapshotter.fail["remove"] = FailedPrecondition("busy")
    await store.gc.collect()
    assert (await keys(store), len(world.snapshotter.snapshots)) == (set(), 1)
    world.snapshotter.fail.clear()
    await store.gc.collect()
    assert world.snapshotter.snapshots == {}


async def test_a_blob_that_a_store_refuses_to_delete_is_tried_again(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    content: Any = store.content._store
    digests = [await put(store, bytes([number])) for number in range(3)]
    real = content.delete_many
    asked: list[int] = []

    async def refuse(wanted: Sequence[str]) -> Mapping[str, OrlopError]:
        asked.append(len(wanted))
        if len(asked) == 1:
            raise FailedPrecondition("not now")
        if len(asked) == 2:
            return {**await real(wanted[1:]), wanted[0]: FailedPrecondition("busy")}
        return await real(wanted)

    monkeypatch.setattr(content, "delete_many", refuse)
    assert (await store.gc.collect()).deleted == 0
    assert world.blobs == set(digests)
    assert (await store.gc.collect()).deleted == 2
    assert len(world.blobs) == 1
    result = await store.gc.collect()
    assert (result.deleted, result.freed, world.blobs, asked) == (1, 1, set(), [3, 3, 1])


class _OneByOne:
    """A content store that cannot delete many at once."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if name == "delete_many":
            raise AttributeError(name)
        return getattr(self._store, name)


async def test_a_store_that_deletes_no_many_at_once_is_asked_for_each(store: Store, world: World) -> None:
    remover = store.gc._data
    remover._content = _OneByOne(remover._content)  # type: ignore[assignment]
    for number in range(3):
        await put(store, bytes([number]))
    result = await store.gc.collect()
    assert (result.deleted, result.freed, world.blobs) == (3, 3, set())


async def test_a_look_for_orphans_that_failed_is_done_again(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    content: Any = store.content._store
    async with await content.ingest("lost") as ingest:
        await ingest.write(b"lost")
        await ingest.commit()

    async def fail() -> AsyncIterator[object]:
        raise FailedPrecondition("not now")
        yield  # pragma: no cover

    with monkeypatch.context() as patch:
        patch.setattr(content, "blobs", fail)
        await store.gc.collect()
    assert len(world.blobs) == 1
    await store.gc.collect()
    assert world.blobs == set()


async def test_a_note_of_what_is_to_go_outlives_a_crash(world: World) -> None:
    async with world.open() as store:
        await chain(store, "loose")
        await store.gc.collect()
        await chain(store, "late")
        world.snapshotter.fail["remove"] = FailedPrecondition("busy")
        await store.gc.collect()
    world.snapshotter.fail.clear()
    async with world.open() as store:
        await store.gc.collect()
    assert world.snapshotter.snapshots == {}


@pytest.mark.parametrize("half", [False, True], ids=["as it was", "with tables that came before the number"])
async def test_a_database_of_version_1_is_brought_forward_and_collected(world: World, half: bool) -> None:
    old = (Path(__file__).parent / "schema_version_1.sql").read_text()
    if half:
        old += "CREATE TABLE removals (id INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL,"
        old += " node TEXT NOT NULL, at INTEGER NOT NULL, how TEXT NOT NULL, cause TEXT NOT NULL,"
        old += " cause_how TEXT NOT NULL); INSERT INTO counters VALUES ('collecting', 0);"
    with closing(sqlite3.connect(world.database)) as conn:
        conn.executescript(old)
    kept, loose = sha256(b"kept"), sha256(b"loose")
    folder = world.folder / "content" / "blobs" / "sha256"
    folder.mkdir(parents=True)
    for digest, data in ((kept, b"kept"), (loose, b"loose")):
        (folder / digest.removeprefix("sha256:")).write_bytes(data)
    async with world.open() as store:
        assert (await store.gc.collect()).removed == {"contents": 1}
        assert (await digests(store), world.blobs) == ({kept}, {kept})
        assert (await store.namespaces.get("testing")).labels == {"team": "old"}
        # What is deleted by name is recorded, as in a database that was made now.
        await store.images.delete(NS, "old")
    with closing(sqlite3.connect(world.database)) as conn:
        assert conn.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        told = conn.execute("SELECT node, how FROM removals ORDER BY id").fetchall()
        assert [node for node, _ in told] == [f"c:{loose}", "i:old"]
        assert told[1][1] == "deleted"
        shape = "SELECT type, name, tbl_name FROM sqlite_master ORDER BY 1, 2"
        brought = conn.execute(shape).fetchall()
    fresh = world.folder / "fresh"
    fresh.mkdir()
    async with World(fresh).open():
        pass
    with closing(sqlite3.connect(fresh / "metadata.db")) as conn:
        assert conn.execute(shape).fetchall() == brought


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
