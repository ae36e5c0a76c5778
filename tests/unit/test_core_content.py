"""Content: ingests, blobs and labels as namespaces see them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from orlopd.core.blobs import ContentInfo
from orlopd.core.content import NamespacedIngest, Sharing
from orlopd.core.leases import Resource
from orlopd.core.scope import Scope
from orlopd.core.store import Store
from orlopd.plugin.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from tests.support.store import NS, World, digest_of, digests, put

OTHER = Scope("other")
HELLO = b"hello, world"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def store(world: World) -> AsyncIterator[Store]:
    async with world.open() as store:
        yield store


async def test_what_was_committed_is_read_back(store: Store) -> None:
    async with await store.content.ingest(NS, "ref", total=12) as ingest:
        await ingest.write(HELLO[:5])
        await ingest.write(HELLO[5:])
        blob = await ingest.commit(12, digest_of(HELLO), {"a": "1", "empty": ""})
    assert blob.digest == digest_of(HELLO)
    info = await store.content.info(NS, blob.digest)
    assert (info.size, dict(info.labels)) == (12, {"a": "1"})
    assert await store.content.read_blob(NS, blob.digest, 12) == HELLO
    with pytest.raises(ResourceExhausted):
        await store.content.read_blob(NS, blob.digest, 11)
    with pytest.raises(NotFound):
        await store.content.status(NS, "ref")


async def test_an_ingest_goes_on_where_it_was_left(store: Store, world: World) -> None:
    async with await store.content.ingest(NS, "ref", total=12) as ingest:
        await ingest.write(HELLO[:5])
    status = await store.content.status(NS, "ref")
    assert (status.ref, status.offset, status.total) == ("ref", 5, 12)
    async with await store.content.ingest(NS, "ref") as ingest:
        assert ingest.status.offset == 5
        await ingest.write(HELLO[5:])
        assert (await ingest.commit()).digest == digest_of(HELLO)
    assert world.ingests == 0


async def test_an_ingest_outlives_a_restart(world: World) -> None:
    async with world.open() as store, await store.content.ingest(NS, "ref") as ingest:
        await ingest.write(HELLO[:5])
    async with world.open() as store:
        await store.gc.collect()
        assert [status.offset for status in await store.content.statuses(NS)] == [5]
        async with await store.content.ingest(NS, "ref") as ingest:
            await ingest.write(HELLO[5:])
            await ingest.commit(0, digest_of(HELLO))
        assert world.blobs == {digest_of(HELLO)}


async def test_a_mismatch_leaves_the_ingest_to_look_at(store: Store) -> None:
    async with await store.content.ingest(NS, "ref") as ingest:
        await ingest.write(HELLO)
        with pytest.raises(FailedPrecondition):
            await ingest.commit(size=11)
    async with await store.content.ingest(NS, "ref") as ingest:
        with pytest.raises(FailedPrecondition):
            await ingest.commit(digest=digest_of(b"other"))
    assert (await store.content.status(NS, "ref")).offset == 12
    await store.content.abort(NS, "ref")
    with pytest.raises(NotFound):
        await store.content.abort(NS, "ref")
    assert not await digests(store)


async def test_a_ref_has_one_writer(store: Store) -> None:
    async with await store.content.ingest(NS, "ref") as ingest:
        with pytest.raises(Unavailable):
            await store.content.ingest(NS, "ref")
        # Refs of other namespaces are other refs.
        async with await store.content.ingest(OTHER, "ref"):
            pass
        await ingest.write(HELLO)
        await ingest.commit()


async def test_the_second_of_two_commits_of_a_blob_is_told_so(store: Store, world: World) -> None:
    async with await store.content.ingest(NS, "a") as a, await store.content.ingest(NS, "b") as b:
        await a.write(HELLO)
        await b.write(HELLO)
        results: list[str] = []

        async def commit(ingest: NamespacedIngest) -> None:
            try:
                await ingest.commit()
                results.append("done")
            except AlreadyExists:
                results.append("exists")

        async with anyio.create_task_group() as group:
            group.start_soon(commit, a)
            group.start_soon(commit, b)
    assert sorted(results) == ["done", "exists"]
    assert world.blobs == {digest_of(HELLO)}
    assert (world.ingests, await store.content.statuses(NS)) == (0, [])


async def test_an_expected_blob_that_is_there_is_refused_at_once(store: Store) -> None:
    digest = await put(store, HELLO)
    with pytest.raises(AlreadyExists):
        await store.content.ingest(NS, "again", expected=digest)
    assert await store.content.statuses(NS) == []


async def test_a_namespace_sees_only_its_own(store: Store, world: World) -> None:
    digest = await put(store, HELLO)
    for call in (
        store.content.info(OTHER, digest),
        store.content.open(OTHER, digest),
        store.content.delete(OTHER, digest),
    ):
        with pytest.raises(NotFound):
            await call
    assert await digests(store, OTHER) == set()
    assert await put(store, HELLO, {"root": "now"}, scope=OTHER) == digest
    await store.content.delete(NS, digest)
    await store.gc.collect()
    assert (await digests(store), await digests(store, OTHER), world.blobs) == (set(), {digest}, {digest})
    await store.content.delete(OTHER, digest)
    await store.gc.collect()
    assert world.blobs == set()


async def test_shared_bytes_need_not_be_sent_again(store: Store, world: World) -> None:
    digest = await put(store, HELLO, {"root": "now"})
    async with await store.content.ingest(OTHER, "ref", expected=digest) as ingest:
        assert (ingest.status.offset, ingest.status.total, ingest.shared) == (12, 12, True)
        assert await ingest.digest() == digest
        with pytest.raises(FailedPrecondition):
            await ingest.commit(11)
        await ingest.commit(12, digest)
    assert await store.content.read_blob(OTHER, digest, 100) == HELLO
    # A size that does not fit is no match: the bytes must come.
    async with await store.content.ingest(Scope("third"), "ref", total=5, expected=digest) as ingest:
        assert not ingest.shared


async def test_bytes_of_a_shared_ingest_stay_when_their_owner_lets_go(store: Store, world: World) -> None:
    digest = await put(store, HELLO)
    async with await store.content.ingest(OTHER, "ref", expected=digest) as ingest:
        await store.content.delete(NS, digest)
        await store.gc.collect()
        assert world.blobs == {digest}
        await ingest.commit()
    assert await digests(store, OTHER) == {digest}


async def test_a_shared_ingest_that_is_written_after_all_is_a_copy(store: Store) -> None:
    digest = await put(store, HELLO, {"root": "now"})
    async with await store.content.ingest(OTHER, "more", expected=digest) as ingest:
        await ingest.write(b"!")
        assert (await ingest.commit()).digest == digest_of(HELLO + b"!")
    async with await store.content.ingest(OTHER, "less", expected=digest) as ingest:
        await ingest.truncate(5)
        assert (await ingest.commit(5)).digest == digest_of(HELLO[:5])


async def test_isolation_wants_the_bytes_except_from_shareable_namespaces(world: World) -> None:
    async with world.open(sharing=Sharing.ISOLATED) as store:
        digest = await put(store, HELLO)
        async with await store.content.ingest(OTHER, "ref", expected=digest) as ingest:
            assert not ingest.shared
        await store.namespaces.update(NS, "testing", {"containerd.io/namespace.shareable": "true"})
        async with await store.content.ingest(OTHER, "ref", expected=digest) as ingest:
            assert ingest.shared


async def test_labels_change_by_mask(store: Store) -> None:
    digest = await put(store, HELLO)
    update = store.content.update
    await update(NS, ContentInfo(digest, labels={"a": "1", "b.c/d": "2"}))
    await update(NS, ContentInfo(digest, labels={"b.c/d": "3", "x": "no"}), ["labels.b.c/d"])
    assert dict((await store.content.info(NS, digest)).labels) == {"a": "1", "b.c/d": "3"}
    await update(NS, ContentInfo(digest, labels={}), ["labels.a"])
    assert dict((await store.content.info(NS, digest)).labels) == {"b.c/d": "3"}
    changed = await update(NS, ContentInfo(digest, labels={"z": "1"}), ["labels"])
    assert dict(changed.labels) == {"z": "1"}
    assert changed.updated_at > changed.created_at
    for paths in (["size"], ["labels.z", "digest.x"]):
        with pytest.raises(InvalidArgument):
            await update(NS, ContentInfo(digest), paths)
    with pytest.raises(InvalidArgument):
        await update(NS, ContentInfo(digest, labels={"k" * 96: "v" * 4001}))
    with pytest.raises(NotFound):
        await update(OTHER, ContentInfo(digest))


async def test_a_list_is_filtered(store: Store) -> None:
    first = await put(store, b"1")
    await put(store, b"2")
    await store.content.update(NS, ContentInfo(first, labels={"kind": "layer"}))

    async def found(*filters: str) -> list[str]:
        return [info.digest async for info in store.content.walk(NS, filters)]

    assert len(await found()) == 2
    assert await found("labels.kind==layer") == [first]
    assert await found(f'digest=="{first}"') == [first]
    with pytest.raises(InvalidArgument):
        await found("labels.kind=layer")


async def test_a_list_longer_than_a_page_is_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlopd.core.content.PAGE", 3)
    expected = {await put(store, str(number).encode()) for number in range(10)}
    found = [info.digest async for info in store.content.walk(NS)]
    assert (len(found), set(found)) == (10, expected)


@pytest.mark.parametrize(
    "digest", ["", "sha256:abc", "sha256:../../etc/passwd", "md5:" + "0" * 32, "x" * 500]
)
async def test_a_malformed_digest_is_refused(store: Store, digest: str) -> None:
    for call in (store.content.info, store.content.delete, store.content.open):
        with pytest.raises(InvalidArgument):
            await call(NS, digest)


async def test_sha512_is_as_good(store: Store) -> None:
    digest = "sha512:" + hashlib.sha512(HELLO).hexdigest()
    async with await store.content.ingest(NS, "ref", expected=digest) as ingest:
        await ingest.write(HELLO)
        assert (await ingest.commit(12, digest)).digest == digest
    assert await store.content.read_blob(NS, digest, 100) == HELLO


async def test_a_lease_holds_ingest_and_blob(store: Store) -> None:
    lease = await store.leases.create(NS)
    scope = Scope("testing", lease.id)
    async with await store.content.ingest(scope, "ref") as ingest:
        assert await store.leases.list_resources(NS, lease.id) == [Resource("ingests", "ref")]
        await ingest.write(HELLO)
        digest = (await ingest.commit()).digest
    assert await store.leases.list_resources(NS, lease.id) == [Resource("content", digest)]
    other = Scope("testing", (await store.leases.create(NS)).id)
    with pytest.raises(AlreadyExists):
        await store.content.ingest(other, "again", expected=digest)
    assert await store.leases.list_resources(NS, other.lease) == [Resource("content", digest)]


async def test_a_lease_that_is_gone_fails_the_call_and_leaves_nothing(store: Store, world: World) -> None:
    gone = Scope("testing", "gone")
    with pytest.raises(NotFound):
        await store.content.ingest(gone, "ref")
    assert await store.content.statuses(NS) == []
    lease = await store.leases.create(NS, "short")
    async with await store.content.ingest(Scope("testing", lease.id), "ref") as ingest:
        await ingest.write(HELLO)
        await store.leases.delete(NS, lease.id)
        with pytest.raises(NotFound):
            await ingest.commit()
    await store.gc.collect()
    assert (world.blobs, world.ingests) == (set(), 0)


async def test_a_whole_blob_found_there_gets_the_labels_too(store: Store) -> None:
    first = await store.content.add_blob(NS, "a", HELLO, labels={"one": "1"})
    again = await store.content.add_blob(NS, "b", HELLO, labels={"two": "2"})
    assert first.digest == again.digest
    assert dict(again.labels) == {"one": "1", "two": "2"}
    with pytest.raises(FailedPrecondition):
        await store.content.add_blob(NS, "c", b"x", digest=digest_of(b"y"))
