"""What leases and ingests keep, and until when."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orlopd.core.leases import Resource
from orlopd.core.scope import Scope
from orlopd.core.store import Store
from orlopd.plugin.values import now
from tests.support.store import FUTURE, NS, OTHER, PAST, World, chain, digests, keys, put, put_image


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


async def test_a_shared_ingest_keeps_what_it_stands_for(store: Store) -> None:
    digest = await put(store, b"blob", {"root": "x"})
    async with await store.content.ingest(OTHER, "ref", expected=digest):
        await put(store, b"blob", scope=OTHER)
        await store.gc.collect()
        assert await digests(store, OTHER) == {digest}
