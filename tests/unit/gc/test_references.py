"""What refers to something keeps it, and what nothing refers to goes."""

from __future__ import annotations

import pytest

from orlopd.core.blobs import ContentInfo
from orlopd.core.leases import Resource
from orlopd.core.scope import Scope
from orlopd.core.store import Store
from orlopd.plugin.values import Container, TypedBytes
from tests.support.store import NS, OTHER, PAST, World, chain, digests, keys, put, put_image


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
