"""Why things are kept, how they went, and what a collection would remove."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from orlopd.core import removals
from orlopd.core.leases import Resource
from orlopd.core.scope import Scope
from orlopd.core.store import Store
from orlopd.core.why import Explanation, describe, reason_of
from orlopd.plugin.errors import InvalidArgument, NotFound
from orlopd.plugin.values import Container, Descriptor, Image, TypedBytes, Usage, now, sha256
from tests.support.store import MANIFEST, NS, World, digests, keys, put, put_image

OTHER = Scope("other")
SPEC = TypedBytes("spec", b"{}")


def chain(found: Explanation, number: int = 0) -> list[tuple[str, str]]:
    return [(describe(link.node), link.reference) for link in found.chains[number]]


async def image_of(store: Store, name: str = "image") -> tuple[str, str]:
    """An image of one layer: the digests of layer and manifest."""
    layer = await put(store, b"layer of " + name.encode())
    manifest = await put(store, b"manifest of " + name.encode(), {"ref.content.l.0": layer})
    await put_image(store, name, manifest)
    return layer, manifest


async def test_the_chain_from_an_image_is_told(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store:
        layer, manifest = await image_of(store)
        found = await store.explainer.why(NS, layer)
        assert found.present
        assert chain(found) == [
            ("image image", "target"),
            (f"blob {manifest}", "containerd.io/gc.ref.content.l.0"),
            (f"blob {layer}", ""),
        ]
        assert "until it is deleted" in found.chains[0][0].reason
        assert len(found.chains) == 1
        # Another namespace has another story.
        with pytest.raises(NotFound):
            await store.explainer.why(OTHER, layer)


async def test_every_root_is_told_the_nearest_first(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store:
        layer, manifest = await image_of(store)
        await put_image(store, "second", manifest)
        until = now() + timedelta(hours=1)
        labels = {"containerd.io/gc.expire": until.isoformat(timespec="seconds")}
        lease = await store.leases.create(NS, "mine", labels)
        await store.leases.add_resource(NS, lease.id, Resource("content", layer))
        rooted = await put(store, b"rooted", {"root": "1", "ref.content": layer})
        found = await store.explainer.why(NS, layer)
        held, labelled = sorted(found.chains[:2], key=lambda each: each[0].node, reverse=True)
        assert [(describe(link.node), link.reference) for link in held] == [
            ("lease mine", "holds"),
            (f"blob {layer}", ""),
        ]
        assert held[0].expires_at == until.replace(microsecond=0)
        assert [(describe(link.node), link.reference) for link in labelled] == [
            (f"blob {rooted}", "containerd.io/gc.ref.content"),
            (f"blob {layer}", ""),
        ]
        assert {describe(each[0].node) for each in found.chains[2:]} == {"image image", "image second"}
        assert not found.more


async def test_containers_snapshots_and_ingests(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store:
        mem = store.snapshots.for_name("mem")
        await mem.prepare(NS, "active")
        await mem.commit(NS, "sha256:" + "ab" * 32, "active")
        await mem.prepare(NS, "rw", "sha256:" + "ab" * 32)
        await store.containers.create(
            NS, Container("box", "runc", spec=SPEC, snapshotter="mem", snapshot_key="rw")
        )
        # By the beginning of a chain id, and by an alias of the snapshotter.
        found = await store.explainer.why(NS, "abab")
        assert chain(found) == [
            ("container box", "snapshot"),
            ("snapshot mem/rw", "parent"),
            (f"snapshot mem/sha256:{'ab' * 32}", ""),
        ]
        await put(store, b"config", {"root": "1", "ref.snapshot.memory": "sha256:" + "ab" * 32})
        found = await store.explainer.why(NS, "mem/sha256:ab")
        assert ("containerd.io/gc.ref.snapshot.memory") in [each[0].reference for each in found.chains]
        async with await store.content.ingest(NS, "coming"):
            found = await store.explainer.why(NS, "coming")
        assert chain(found) == [("ingest coming", "")]
        assert found.chains[0][0].expires_at is not None


async def test_beginnings_must_be_the_only_one(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store:
        digest = await put(store, b"blob")
        for name in (digest, digest[:15], digest[7:17], digest[7:11]):
            found = await store.explainer.why(NS, name)
            assert (found.node, found.present, found.chains) == (f"c:{digest}", True, [])
        await put_image(store, "apple", digest)
        await put_image(store, "apple-pie", digest)
        assert (await store.explainer.why(NS, "apple")).node == "i:apple"
        assert (await store.explainer.why(NS, "apple-")).node == "i:apple-pie"
        with pytest.raises(InvalidArgument, match="apple-pie"):
            await store.explainer.why(NS, "app")
        for name in ("", "sha256:abc"):
            with pytest.raises((InvalidArgument, NotFound)):
                await store.explainer.why(NS, name)


async def test_how_things_went_is_remembered(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        layer, manifest = await image_of(store)
        begin = now()
        await store.images.delete(NS, "image")
        await store.gc.collect()
        assert await digests(store) == set()
    # By the next daemon, too.
    async with world.open() as store:
        found = await store.explainer.why(NS, layer[:20])
        assert (found.present, found.chains) == (False, ())
        story = [(describe(each.node), reason_of(each)) for each in found.removals]
        assert story == [
            (f"blob {layer}", f"collected together with blob {manifest}, which referred to it"),
            (f"blob {manifest}", "collected: nothing kept it after image image was deleted"),
            ("image image", "deleted by name"),
        ]
        assert all(begin <= each.at + timedelta(milliseconds=2) <= now() for each in found.removals)
        # Made anew, it is there.
        await put(store, b"layer of image")
        assert (await store.explainer.why(NS, layer)).present


async def test_what_changed_or_ended_is_told_as_the_cause(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store:
        _, manifest = await image_of(store)
        target = Descriptor(MANIFEST, sha256(b"new"), 3)
        await store.images.update(NS, Image("image", target))
        lease = await store.leases.create(NS, "mine")
        held, let_go = await put(store, b"held"), await put(store, b"let go")
        for digest in (held, let_go):
            await store.leases.add_resource(NS, lease.id, Resource("content", digest))
        await store.leases.delete_resource(NS, lease.id, Resource("content", let_go))
        gone_at = (now() + timedelta(seconds=0.5)).isoformat()
        brief = await store.leases.create(NS, "brief", {"containerd.io/gc.expire": gone_at})
        leased = await put(store, b"leased")
        await store.leases.add_resource(NS, brief.id, Resource("content", leased))
        orphan = await put(store, b"orphan")
        await store.gc.collect()

        async def reasons(name: str) -> list[str]:
            return [reason_of(each) for each in (await store.explainer.why(NS, name)).removals]

        assert (await reasons(manifest)) == ["collected: nothing kept it after image image let it go"]
        assert (await reasons(let_go)) == ["collected: nothing kept it after lease mine let it go"]
        assert (await reasons(orphan)) == ["collected: nothing kept it"]
        assert (await store.explainer.why(NS, held)).present
        await store.leases.delete(NS, "mine")
        await store.gc.collect()
        assert (await reasons(held))[0] == "collected: nothing kept it after lease mine was deleted"

        await anyio.sleep(0.6)
        await store.gc.collect()
        assert (await reasons(leased)) == [
            "collected together with lease brief, which referred to it",
            "expired",
        ]


async def test_an_update_that_keeps_a_reference_is_no_news(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store:
        _, manifest = await image_of(store)
        image = await store.images.get(NS, "image")
        await store.images.update(NS, Image("image", image.target, {"colour": "blue"}), ["labels.colour"])
        assert await store.gc.preview(lambda conn, _: conn.execute("SELECT * FROM lost").fetchall()) == []
        assert (await store.explainer.why(NS, manifest)).present


async def test_cycles_end(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store:
        one, two = sha256(b"one"), sha256(b"two")
        await put(store, b"one", {"ref.content": two})
        await put(store, b"two", {"ref.content": one})
        assert (await store.explainer.why(NS, one)).chains == []
        await store.gc.collect()
        assert len((await store.explainer.why(NS, one)).removals) == 2


async def test_the_record_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removals, "MOST", 10)
    async with World(tmp_path).open() as store:
        for number in range(8):
            for each in range(5):
                await put(store, f"{number}-{each}".encode())
            await store.gc.collect()
        count = await store.gc.preview(
            lambda conn, _: conn.execute("SELECT count(*) FROM removals").fetchone()
        )
        assert count == (10,)


async def test_a_preview_tells_what_goes_and_changes_nothing(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store:
        layer, manifest = await image_of(store)
        await put(store, b"layer of image", scope=OTHER)
        mem = store.snapshots.for_name("mem")
        await mem.prepare(NS, "rw")
        await store.containers.create(
            NS, Container("box", "runc", spec=SPEC, snapshotter="mem", snapshot_key="rw")
        )
        await store.leases.create(OTHER, "keep")
        await store.leases.add_resource(OTHER, "keep", Resource("content", layer))
        orphan = await put(store, b"orphan")
        before = await digests(store)
        plain = await store.upkeep.preview(NS)
        assert [(each.node, each.size, each.reason) for each in plain.objects] == [
            (f"c:{orphan}", 6, "nothing refers to it")
        ]
        found = await store.upkeep.preview(NS, containers=["box"], images=["image"])
        assert [(each.node, each.size, each.reason) for each in found.objects] == sorted(
            [
                ("k:box", 0, "it has ended"),
                ("i:image", 0, "no container uses it"),
                # The other namespace has its bytes still.
                (f"c:{layer}", 0, f"only blob {manifest} referred to it"),
                (f"c:{manifest}", 17, "only image image kept it"),
                (f"c:{orphan}", 6, "nothing refers to it"),
                ("s:mem/rw", 100, "only container box kept it"),
            ],
            key=lambda each: ("kics".index(each[0][0]), each[0]),
        )
        assert (found.bytes_of("c"), found.bytes_of("s", "mem"), found.bytes_of("s", "me")) == (23, 100, 0)
        assert await digests(store) == before
        assert await keys(store) == {"rw"}
        assert len(await store.images.list(NS)) == 1
        assert (await store.explainer.why(NS, layer)).present
        # And the collection does as was told.
        await store.gc.collect()
        assert await digests(store) == before - {orphan}
        assert await store.upkeep.left(NS, ["i:image", f"c:{orphan}", "s:mem/rw"]) == {"i:image", "s:mem/rw"}


async def test_objects_are_listed_with_what_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orlopd.core.upkeep._PAGE", 2)
    async with World(tmp_path).open() as store:
        layer, manifest = await image_of(store)
        await put_image(store, "second", manifest)
        orphan = await put(store, b"orphan")
        mem = store.snapshots.for_name("mem")
        for number in range(3):
            await mem.prepare(NS, f"s{number}")
        pages = [page async for page in store.upkeep.objects(NS)]
        assert [len(page) for page in pages] == [2, 1, 2, 1]
        found = {each.node: each for page in pages for each in page}
        assert list(found) == [
            *(f"c:{digest}" for digest in sorted([layer, manifest, orphan])),
            *(f"s:mem/s{number}" for number in range(3)),
        ]
        assert set(found[f"c:{layer}"].keepers) == {"i:image", "i:second"}
        assert found[f"c:{orphan}"].keepers == []
        assert found["s:mem/s1"].size == Usage(1, 100).size
