"""What the model found: each as a story of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orlopd.core.content import Sharing
from orlopd.core.leases import Resource
from orlopd.core.scope import Scope
from orlopd.core.store import Store
from orlopd.plugin.errors import Aborted, NotFound, Unavailable
from orlopd.plugin.values import Descriptor, Image
from tests.support.store import MANIFEST, NS, World, digest_of, digests, put, put_image

OTHER = Scope("other")
DATA = b"shared bytes"
DIGEST = digest_of(DATA)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def store(world: World) -> AsyncIterator[Store]:
    async with world.open(sharing=Sharing.SHARED) as store:
        yield store


async def test_a_refused_writer_changes_nothing(store: Store) -> None:
    """Neither does its lease hold the ingest, nor does the ingest forget that it was opened without one."""
    lease = await store.leases.create(NS)
    async with await store.content.ingest(NS, "ref") as ingest:
        await ingest.write(DATA)
        with pytest.raises(Unavailable):
            await store.content.ingest(Scope(NS.namespace, lease.id), "ref")
        assert await store.leases.list_resources(NS, lease.id) == []
    await store.leases.delete(NS, lease.id, sync=True)
    assert (await store.content.status(NS, "ref")).offset == len(DATA)


async def test_an_ingest_outlives_the_lease_of_who_came_later(store: Store) -> None:
    lease = await store.leases.create(NS)
    async with await store.content.ingest(NS, "ref") as ingest:
        await ingest.write(DATA)
    async with await store.content.ingest(Scope(NS.namespace, lease.id), "ref"):
        pass
    await store.leases.delete(NS, lease.id, sync=True)
    assert (await store.content.status(NS, "ref")).offset == len(DATA)


async def test_a_blob_that_an_ingest_kept_goes_with_the_ingest(store: Store, world: World) -> None:
    await put(store, DATA, scope=OTHER)
    async with await store.content.ingest(NS, "ref", expected=DIGEST) as ingest:
        assert ingest.shared
    await store.gc.collect()
    assert world.blobs == {DIGEST}
    await store.content.abort(NS, "ref")
    await store.gc.collect()
    assert world.blobs == set()


@pytest.mark.parametrize("how", ["sweep", "namespace"])
async def test_so_it_does_however_the_ingest_ends(store: Store, world: World, how: str) -> None:
    lease = await store.leases.create(NS)
    await put(store, DATA, scope=OTHER)
    async with await store.content.ingest(Scope(NS.namespace, lease.id), "ref", expected=DIGEST):
        pass
    await store.gc.collect()
    assert world.blobs == {DIGEST}
    if how == "sweep":
        await store.leases.delete(NS, lease.id)
    else:
        await store.namespaces.delete(NS.namespace)
    await store.gc.collect()
    assert world.blobs == set()


async def test_no_blob_without_bytes(store: Store, world: World) -> None:
    """The ingest and what it stood for are collected while a writer of it is open."""
    lease = await store.leases.create(NS)
    await put(store, DATA, scope=OTHER)
    async with await store.content.ingest(Scope(NS.namespace, lease.id), "ref", expected=DIGEST) as ingest:
        await store.leases.delete(NS, lease.id, sync=True)
        assert world.blobs == set()
        with pytest.raises(Aborted, match="gone"):
            await ingest.write(b"more")
        with pytest.raises(Aborted, match="gone"):
            await ingest.commit()
    assert await digests(store) == set()
    assert world.ingests == 0


async def test_what_was_sent_before_goes_when_another_has_it(store: Store, world: World) -> None:
    async with await store.content.ingest(NS, "ref") as ingest:
        await ingest.write(DATA[:5])
    await put(store, DATA, scope=OTHER)
    async with await store.content.ingest(NS, "ref", expected=DIGEST) as ingest:
        await ingest.commit()
    await store.gc.collect()
    assert world.ingests == 0


@pytest.mark.parametrize(
    ("paths", "notes"),
    [
        (["target", "annotations.a"], {"a": "new", "b": "new"}),
        (["annotations.a", "target"], {"a": "new", "b": "new"}),
        (["annotations.a"], {"a": "new", "b": "old"}),
        (["annotations"], {"a": "new", "b": "new"}),
    ],
)
async def test_a_mask_is_read_from_left_to_right(
    store: Store, paths: list[str], notes: dict[str, str]
) -> None:
    def image(word: str) -> Image:
        return Image("image", Descriptor(MANIFEST, DIGEST, 10, annotations={"a": word, "b": word}))

    await store.images.create(NS, image("old"))
    assert (await store.images.update(NS, image("new"), paths)).target.annotations == notes


async def test_a_lease_is_looked_for_before_its_resource_is_read(store: Store) -> None:
    for call in (store.leases.add_resource, store.leases.delete_resource):
        with pytest.raises(NotFound, match="lease"):
            await call(NS, "gone", Resource("volumes", "v"))


async def test_a_time_in_lower_case_is_none(store: Store) -> None:
    """As Go reads RFC 3339: what cannot be read keeps."""
    await put_image(store, "image", await put(store, DATA), {"expire": "2020-01-01t00:00:00z"})
    await store.gc.collect()
    assert [image.name for image in await store.images.list(NS)] == ["image"]


async def test_who_is_told_that_a_blob_is_there_can_rely_on_it(store: Store, world: World) -> None:
    """Also where a writer says only at its commit what it brings: its lease holds the blob from then on."""
    lease = await store.leases.create(NS)
    holder = Scope(NS.namespace, lease.id)
    await put(store, DATA)
    async with await store.content.ingest(holder, "ref") as ingest:
        await ingest.write(DATA)
        assert await store.content.find(holder, DIGEST)
    await store.gc.collect()
    assert world.blobs == {DIGEST}
    assert Resource("content", DIGEST) in await store.leases.list_resources(NS, lease.id)
    await store.leases.delete(NS, lease.id, sync=True)
    with pytest.raises(NotFound, match="lease"):
        await store.leases.list_resources(NS, lease.id)
    assert world.blobs == set()


async def test_a_lease_that_ended_is_told_of_before_the_blob(store: Store) -> None:
    """Without it nothing would hold the blob that is there."""
    await put(store, DATA)
    with pytest.raises(NotFound, match="lease"):
        await store.content.find(Scope(NS.namespace, "gone"), DIGEST)
