"""Images, containers, leases and namespaces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlopd.core import containers, content, images
from orlopd.core.blobs import ContentInfo
from orlopd.core.leases import Resource
from orlopd.core.scope import Scope
from orlopd.core.store import Store
from orlopd.plugin.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unimplemented,
)
from orlopd.plugin.values import Container, Descriptor, Image, TypedBytes, sha256
from tests.support.store import MANIFEST, NS, World, digest_of, put, put_image

OTHER = Scope("other")
TARGET = Descriptor(MANIFEST, sha256(b"1"), 10, annotations={"note": "x", "empty": ""})
SPEC = TypedBytes("spec", b"{}")
BOX = Container("box", "runc", image="image", spec=SPEC, labels={"a": "1"})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def store(world: World) -> AsyncIterator[Store]:
    async with world.open() as store:
        yield store


# --- Images ---------------------------------------------------------------------------------------------


async def test_an_image_is_kept_as_given(store: Store) -> None:
    made = await store.images.create(NS, Image("name", TARGET, {"a": "1", "empty": ""}))
    got = await store.images.get(NS, "name")
    assert got == replace(made, created_at=got.created_at, updated_at=got.updated_at)
    assert (got.target.annotations, got.labels) == ({"note": "x"}, {"a": "1"})
    assert got.created_at == got.updated_at
    with pytest.raises(AlreadyExists):
        await store.images.create(NS, Image("name", TARGET))
    with pytest.raises(NotFound, match='image "name": not found'):
        await store.images.get(OTHER, "name")
    epoch = datetime(2020, 1, 1, tzinfo=UTC)
    assert (await store.images.create(OTHER, Image("name", TARGET), at=epoch)).created_at == epoch


@pytest.mark.parametrize(
    "image",
    [
        Image("", TARGET),
        Image("zero\0byte", TARGET),
        Image("x" * 4097, TARGET),
        Image("name", Descriptor(MANIFEST, "sha256:abc", 10)),
        Image("name", Descriptor(MANIFEST, TARGET.digest, 0)),
        Image("name", Descriptor("", TARGET.digest, 10)),
        Image("name", TARGET, {"k" * 4000: "v" * 97}),
    ],
)
async def test_malformed_images_are_refused(store: Store, image: Image) -> None:
    with pytest.raises(InvalidArgument):
        await store.images.create(NS, image)
    assert await store.images.list(NS) == []


async def test_images_change_by_mask(store: Store) -> None:
    await store.images.create(NS, Image("name", TARGET, {"a": "1", "b": "2"}))
    other = Descriptor("other/type", sha256(b"2"), 20, annotations={"note": "y", "more": "z"})
    wanted = Image("name", other, {"a": "3", "c": "4"})

    async def update(*paths: str) -> Image:
        changed = await store.images.update(NS, wanted, paths)
        assert await store.images.get(NS, "name") == changed
        return changed

    assert dict((await update("labels.a")).labels) == {"a": "3", "b": "2"}
    changed = await update("annotations.more")
    assert (changed.target.digest, dict(changed.target.annotations)) == (
        TARGET.digest,
        {"note": "x", "more": "z"},
    )
    assert dict((await update("annotations")).target.annotations) == {"note": "y", "more": "z"}
    changed = await update("target")
    assert (changed.target, dict(changed.labels)) == (other, {"a": "3", "b": "2"})
    assert dict((await update()).labels) == {"a": "3", "c": "4"}
    assert changed.created_at < changed.updated_at
    for path in ("name", "created_at", "target.digest"):
        with pytest.raises(InvalidArgument):
            await update(path)
    with pytest.raises(NotFound):
        await store.images.update(NS, Image("gone", TARGET))


async def test_an_image_is_deleted_for_its_target_alone(store: Store) -> None:
    await store.images.create(NS, Image("name", TARGET))
    with pytest.raises(NotFound):
        await store.images.delete(NS, "name", digest=sha256(b"2"))
    await store.images.delete(NS, "name", digest=TARGET.digest)
    with pytest.raises(NotFound):
        await store.images.delete(NS, "name")


async def test_images_are_filtered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlopd.core.images.PAGE", 2)
    for name in ("c", "a", "b"):
        await store.images.create(NS, Image(name, TARGET, {"name": name}))

    async def found(*filters: str) -> list[str]:
        return [image.name for image in await store.images.list(NS, filters)]

    assert await found() == ["a", "b", "c"]
    assert await found("name==a", "labels.name==c") == ["a", "c"]
    assert await found(f'target.digest=="{TARGET.digest}",name~=/[ab]/') == ["a", "b"]
    assert await found(f'target.mediatype!="{MANIFEST}"') == []
    assert await found("annotations.note==x,name==b") == ["b"]
    assert await found("size") == []


# --- Containers -----------------------------------------------------------------------------------------


async def test_a_container_is_kept_as_given(store: Store) -> None:
    whole = replace(
        BOX,
        runtime_options=TypedBytes("options", b"\x00\xff"),
        snapshotter="mem",
        snapshot_key="key",
        sandbox="pod",
        extensions={"e": TypedBytes("ext", b"\x80")},
    )
    await store.containers.create(NS, whole)
    got = await store.containers.get(NS, "box")
    assert got == replace(whole, created_at=got.created_at, updated_at=got.updated_at)
    with pytest.raises(AlreadyExists):
        await store.containers.create(NS, whole)
    await store.containers.delete(NS, "box")
    for call in (store.containers.get, store.containers.delete):
        with pytest.raises(NotFound):
            await call(NS, "box")


@pytest.mark.parametrize(
    "container",
    [
        replace(BOX, id=""),
        replace(BOX, id="a/b"),
        replace(BOX, id="../x"),
        replace(BOX, id="-x"),
        replace(BOX, id="x" * 77),
        replace(BOX, id="x\n"),
        replace(BOX, runtime=""),
        replace(BOX, spec=None),
        replace(BOX, snapshot_key="key"),
        replace(BOX, extensions={"": SPEC}),
        replace(BOX, labels={"k" * 4097: ""}),
    ],
)
async def test_malformed_containers_are_refused(store: Store, container: Container) -> None:
    with pytest.raises(InvalidArgument):
        await store.containers.create(NS, container)


async def test_containers_change_by_mask(store: Store) -> None:
    await store.containers.create(NS, replace(BOX, snapshotter="mem", snapshot_key="key"))
    other = replace(
        BOX,
        image="other",
        spec=TypedBytes("spec", b"2"),
        labels={"b": "2"},
        snapshotter="mem",
        snapshot_key="key2",
        extensions={"e": SPEC, "f": SPEC},
    )

    async def update(container: Container, *paths: str) -> Container:
        changed = await store.containers.update(NS, container, paths)
        assert await store.containers.get(NS, "box") == changed
        return changed

    changed = await update(other, "labels.b", "extensions.e")
    assert (dict(changed.labels), dict(changed.extensions)) == ({"a": "1", "b": "2"}, {"e": SPEC})
    assert (changed.image, changed.snapshot_key) == ("image", "key")
    changed = await update(other, "image", "snapshotkey", "spec")
    assert (changed.image, changed.snapshot_key, changed.spec) == ("other", "key2", other.spec)
    assert set((await update(other)).extensions) == {"e", "f"}
    for change in ({"snapshotter": "vfs"}, {"runtime": "crun"}):
        with pytest.raises(InvalidArgument, match="immutable"):
            await update(replace(other, **change))
    for path in ("runtime", "snapshotter", "sandbox", "created_at", "snapshot_key"):
        with pytest.raises(InvalidArgument):
            await update(other, path)
    with pytest.raises(NotFound):
        await update(replace(BOX, id="gone"))


async def test_changes_of_different_fields_at_once_lose_nothing(store: Store) -> None:
    """Who names in a mask what is to change need not know what others change meanwhile."""
    fields = [f"l{number}" for number in range(20)]
    digest = await put(store, b"blob", {"root": "x"})
    image = await put_image(store, "image", digest)
    await store.containers.create(NS, BOX)

    async def change(field: str) -> None:
        labels, path = {field: "new"}, [f"labels.{field}"]
        await store.images.update(NS, replace(image, labels=labels), path)
        await store.containers.update(NS, replace(BOX, labels=labels), path)
        await store.content.update(NS, ContentInfo(digest, labels=labels), path)
        await store.namespaces.update(NS, NS.namespace, labels, path)

    async def replace_what_is_no_label() -> None:
        moved = replace(image, target=replace(image.target, size=77))
        await store.images.update(NS, moved, ["target"])
        await store.containers.update(NS, replace(BOX, image="other"), ["image"])

    async with anyio.create_task_group() as group:
        for field in fields:
            group.start_soon(change, field)
        group.start_soon(replace_what_is_no_label)
    changed, box = await store.images.get(NS, "image"), await store.containers.get(NS, BOX.id)
    for labels in (
        changed.labels,
        box.labels,
        (await store.content.info(NS, digest)).labels,
        (await store.namespaces.get(NS.namespace)).labels,
    ):
        assert {field: labels.get(field) for field in fields} == dict.fromkeys(fields, "new")
    assert (changed.target.size, box.image) == (77, "other")


@pytest.mark.parametrize("kind", ["containers", "content", "images"])
async def test_a_long_list_is_read_as_it_is_taken(
    store: Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (containers, content, images):
        monkeypatch.setattr(module, "_PAGE" if module is containers else "PAGE", 10)
    for number in range(95):
        if kind == "containers":
            await store.containers.create(NS, replace(BOX, id=f"{number:03}"))
        elif kind == "images":
            await put_image(store, f"{number:03}", digest_of(b"x"))
        else:
            await put(store, b"%03d" % number)
    reads = 0
    read = store.db.read

    async def counted(fn: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(fn)

    monkeypatch.setattr(store.db, "read", counted)
    walk = getattr(store, kind).walk(NS)
    seen = [await anext(walk) for _ in range(12)]
    assert reads == 2
    seen += [each async for each in walk]
    assert (len(seen), reads) == (95, 10)
    ids = [getattr(each, {"containers": "id", "content": "digest", "images": "name"}[kind]) for each in seen]
    assert ids == sorted(set(ids))


async def test_containers_are_filtered(store: Store) -> None:
    for name, runtime in (("a", "runc"), ("b", "crun")):
        await store.containers.create(NS, replace(BOX, id=name, runtime=runtime))

    async def found(*filters: str) -> list[str]:
        return [container.id for container in await store.containers.list(NS, filters)]

    assert await found("runtime.name==crun") == ["b"]
    assert await found("id==a,image==image,labels.a==1") == ["a"]
    assert await found("image!=image") == []


# --- Leases ---------------------------------------------------------------------------------------------


async def test_leases_come_and_go(store: Store) -> None:
    made = await store.leases.create(NS, "one", {"x": "1"})
    other = await store.leases.create(NS)
    assert (made.id, bool(other.id)) == ("one", True)
    with pytest.raises(AlreadyExists):
        await store.leases.create(NS, "one")
    await store.leases.create(OTHER, "one")
    assert [lease.id for lease in await store.leases.list(NS, ["labels.x==1"])] == ["one"]
    assert [lease.id for lease in await store.leases.list(NS, [f"id=={other.id}"])] == [other.id]
    await store.leases.delete(NS, "one")
    with pytest.raises(NotFound):
        await store.leases.delete(NS, "one")
    assert [lease.id for lease in await store.leases.list(OTHER)] == ["one"]


async def test_resources_are_put_in_and_taken_out(store: Store) -> None:
    await store.leases.create(NS, "one")
    digest = sha256(b"not there yet")
    resources = [Resource("content", digest), Resource("images", "i"), Resource("snapshots/mem", "k")]
    for resource in (*resources, *resources):
        await store.leases.add_resource(NS, "one", resource)
    assert await store.leases.list_resources(NS, "one") == resources
    for _ in range(2):
        await store.leases.delete_resource(NS, "one", resources[0])
    assert await store.leases.list_resources(NS, "one") == resources[1:]
    for resource in (
        Resource("content", "sha256:abc"),
        Resource("content/x", digest),
        Resource("snapshots", "k"),
        Resource("snapshots/a/b", "k"),
    ):
        with pytest.raises(InvalidArgument):
            await store.leases.add_resource(NS, "one", resource)
    with pytest.raises(Unimplemented):
        await store.leases.add_resource(NS, "one", Resource("tasks", "x"))
    for call in (
        store.leases.add_resource(NS, "gone", resources[0]),
        store.leases.delete_resource(NS, "gone", resources[0]),
        store.leases.list_resources(NS, "gone"),
    ):
        with pytest.raises(NotFound):
            await call


async def test_a_held_scope_has_a_lease_for_the_length_of_the_block(store: Store) -> None:
    async with store.leases.hold(NS) as scope:
        (lease,) = await store.leases.list(NS)
        assert (scope.namespace, scope.lease) == ("testing", lease.id)
        assert "containerd.io/gc.expire" in lease.labels
        async with store.leases.hold(scope) as inner:
            assert inner == scope
        await store.gc.collect()
        await store.leases.list_resources(NS, lease.id)
    assert await store.leases.list(NS) == []


# --- Namespaces -----------------------------------------------------------------------------------------


async def test_namespaces_are_made_and_labelled(store: Store) -> None:
    await store.namespaces.create(NS, "made", {"a": "1"})
    with pytest.raises(AlreadyExists):
        await store.namespaces.create(NS, "made")
    for name in ("", "a/b", "x" * 77, "-a", "a..b"):
        with pytest.raises(InvalidArgument):
            await store.namespaces.create(NS, name)
    assert dict((await store.namespaces.update(NS, "made", {"b": "2"}, ["labels.b"])).labels) == {
        "a": "1",
        "b": "2",
    }
    assert dict((await store.namespaces.update(NS, "made", {}, ["labels.a"])).labels) == {"b": "2"}
    assert dict((await store.namespaces.update(NS, "made", {"c": "3"})).labels) == {"c": "3"}
    with pytest.raises(InvalidArgument):
        await store.namespaces.update(NS, "made", {}, ["name"])
    # As containerd: asking for one that is not there is no error, and makes none.
    assert dict((await store.namespaces.get("gone")).labels) == {}
    assert [namespace.name for namespace in await store.namespaces.list()] == ["made"]
    await store.namespaces.delete("made")
    with pytest.raises(NotFound):
        await store.namespaces.delete("made")


async def test_objects_bring_their_namespace_about(store: Store) -> None:
    assert await store.namespaces.list() == []
    await store.leases.create(NS)
    await store.images.create(OTHER, Image("name", TARGET))
    assert [namespace.name for namespace in await store.namespaces.list()] == ["other", "testing"]


async def test_a_namespace_that_holds_something_stays(store: Store, world: World) -> None:
    await store.gc.collect()  # the first one looks for orphans, which would hide what is forgotten here
    digest = await put(store, b"blob")
    await put_image(store, "image", digest)
    await store.containers.create(NS, BOX)
    await store.snapshots.for_name("mem").prepare(NS, "box", "")
    holds = 'images, blobs, containers, snapshots on "mem" snapshotter'
    with pytest.raises(FailedPrecondition, match=holds):
        await store.namespaces.delete("testing")
    await store.images.delete(NS, "image")
    await store.content.delete(NS, digest)
    await store.containers.delete(NS, "box")
    await store.snapshots.for_name("mem").remove(NS, "box")
    await store.leases.create(NS)
    async with await store.content.ingest(NS, "half") as ingest:
        await ingest.write(b"half")
    await store.namespaces.delete("testing")
    await store.gc.collect()
    assert await store.namespaces.list() == []
    assert (world.blobs, world.ingests, world.snapshotter.snapshots) == (set(), 0, {})
