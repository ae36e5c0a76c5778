"""The check of the store: each kind of damage is found, told, and mended without losing anything sound."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orlop_plugins.content_local.store import LocalStore
from orlop_plugins.vfs.snapshotter import VfsSnapshotter
from orlopd.core import check_data
from orlopd.core.check import Finding, Progress, Summary
from orlopd.core.db import Connection
from orlopd.core.store import Store
from orlopd.plugin.errors import DataLoss
from orlopd.plugin.snapshots import CheckedSnapshotter
from orlopd.plugin.values import Container, TypedBytes, sha256
from tests.support.store import NS, World, digests, keys, put, put_image


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_data, "_MOMENT", 0.01)


async def check(store: Store, **options: Any) -> tuple[list[Finding], Summary]:
    reports = [each async for each in store.checker.check(**options)]
    assert isinstance(reports[-1], Summary)
    findings = [each for each in reports if isinstance(each, Finding)]
    assert reports[-1].findings == len(findings)
    assert reports[-1].repaired == sum(bool(each.repaired) for each in findings)
    return findings, reports[-1]


async def change(store: Store, sql: str, *values: Any) -> None:
    await store.db.write(lambda conn: conn.execute(sql, values))


def path_of(world: World, digest: str) -> Path:
    return world.folder / "content" / "blobs" / digest.replace(":", "/")


async def mends(store: Store, code: str) -> Finding:
    """That a check finds one thing alone, mends it if asked to, and finds nothing then."""
    [found], _ = await check(store)
    assert (found.code, found.repaired, bool(found.hint)) == (code, "", True)
    [mended], _ = await check(store, repair=True)
    assert (mended.code, mended.hint) == (code, "")
    assert mended.repaired
    await store.gc.collect()
    assert (await check(store))[0] == []
    return mended


async def test_what_is_sound_is_left_alone(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store:
        layer = await put(store, b"layer")
        manifest = await put(store, b"manifest", {"ref.content.l.0": layer})
        await put_image(store, "image", manifest)
        await store.snapshots.for_name("mem").prepare(NS, "rw")
        async with await store.content.ingest(NS, "coming") as ingest:
            await ingest.write(b"some")
        reports = [each async for each in store.checker.check(repair=True)]
        assert [each.stage for each in reports if isinstance(each, Progress)] == [
            *("rows", "content", "ingests", "snapshots", "folders")
        ]
        assert reports[-1] == Summary(0, 0, 2, 13, 1)
        assert (await check(store, quick=True))[1].bytes == 0
        assert await digests(store) == {layer, manifest}


async def test_a_corrupt_blob_is_put_away_and_fetched_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        layer = await put(store, b"layer")
        manifest = await put(store, b"manifest", {"ref.content.l.0": layer})
        await put_image(store, "image", manifest)
        path_of(world, manifest).write_bytes(b"mani\0est")
        assert (await check(store, quick=True))[0] == []
        found = await mends(store, "BLOB_CORRUPT")
        assert sha256(b"mani\0est") in found.message
        kept = tmp_path / "quarantine" / manifest.replace(":", "-")
        assert kept.read_bytes() == b"mani\0est"
        # What it refers to was kept all the time.
        assert await digests(store) == {layer}
        assert world.blobs == {layer}
        assert await put(store, b"manifest", {"ref.content.l.0": layer}) == manifest
        await store.gc.collect()
        assert await digests(store) == {layer, manifest}
        assert (await check(store))[0] == []


@pytest.mark.parametrize("cut", [0, 3, 1 << 20])
async def test_a_blob_cut_short_is_corrupt(tmp_path: Path, cut: int) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        # More than one part is read.
        data = b"0123456789abcdef" * (5 << 16)
        digest = await put(store, data, {"root": "1"})
        path_of(world, digest).write_bytes(data[:cut])
        [quick], _ = await check(store, quick=True)
        assert (quick.code, f"{cut} bytes" in quick.message) == ("BLOB_SIZE", True)
        await mends(store, "BLOB_CORRUPT")


async def test_a_blob_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        layer = await put(store, b"layer")
        await put_image(store, "image", await put(store, b"manifest", {"ref.content.l.0": layer}))
        path_of(world, layer).unlink()
        found = await mends(store, "BLOB_MISSING")
        assert (found.namespace, found.object) == ("testing", f"blob {layer}")
        assert layer not in await digests(store)
        assert await put(store, b"layer") == layer
        await store.gc.collect()
        assert layer in await digests(store)


async def test_a_wrong_size_is_corrected(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store:
        digest = await put(store, b"blob", {"root": "1"})
        await change(store, "UPDATE contents SET size = 7")
        await mends(store, "BLOB_SIZE")
        assert (await store.content.info(NS, digest)).size == 4


async def test_a_blob_without_metadata_is_collected(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        await store.gc.collect()
        other = await LocalStore.at(world.folder / "content")
        async with await other.ingest("mine") as ingest:
            await ingest.write(b"nobody's")
            await ingest.commit()
        await mends(store, "BLOB_UNKNOWN")
        assert world.blobs == set()


async def test_ingests_of_one_side_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        await store.gc.collect()
        async with await store.content.ingest(NS, "lost"):
            pass
        [folder] = (world.folder / "content" / "ingest").iterdir()
        (folder / "state").unlink()
        found = await mends(store, "INGEST_MISSING")
        assert found.object == "ingest lost"
        other = await LocalStore.at(world.folder / "content")
        async with await other.ingest("testing/99/mine") as ingest:
            await ingest.write(b"x")
        await mends(store, "INGEST_UNKNOWN")
        assert world.ingests == 0


async def test_an_ingest_that_was_never_begun_is_forgotten_at_the_start(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        await store.gc.collect()
        for ref in ("lost", "kept"):
            async with await store.content.ingest(NS, ref) as ingest:
                await ingest.write(b"some")
        for folder in (world.folder / "content" / "ingest").iterdir():
            if b"lost" in (folder / "state").read_bytes():
                shutil.rmtree(folder)
    async with world.open() as store:
        assert (await check(store))[0] == []
        assert [status.ref for status in await store.content.statuses(NS)] == ["kept"]


async def test_snapshots_of_one_side_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        await store.gc.collect()
        mem = store.snapshots.for_name("mem")
        await mem.prepare(NS, "rw", labels={"containerd.io/gc.root": "1"})
        [backend_key] = world.snapshotter.snapshots
        del world.snapshotter.snapshots[backend_key]
        found = await mends(store, "SNAPSHOT_MISSING")
        assert (found.namespace, found.object) == ("testing", "snapshot mem/rw")
        assert await keys(store) == set()
        await world.snapshotter.prepare("testing/99/x", "")
        await mends(store, "SNAPSHOT_UNKNOWN")
        assert world.snapshotter.snapshots == {}


async def test_a_missing_snapshot_that_a_container_uses_is_only_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        await store.snapshots.for_name("mem").prepare(NS, "rw")
        spec = TypedBytes("spec", b"{}")
        await store.containers.create(
            NS, Container("box", "runc", spec=spec, snapshotter="mem", snapshot_key="rw")
        )
        world.snapshotter.snapshots.clear()
        [found], _ = await check(store, repair=True)
        assert (found.code, found.repaired, "remove the containers" in found.hint) == (
            *("SNAPSHOT_MISSING", "", True),
        )
        assert await keys(store) == {"rw"}


async def test_snapshots_of_a_snapshotter_that_is_not_here(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store:
        await store.snapshots.for_name("mem").prepare(NS, "rw", labels={"containerd.io/gc.root": "1"})
        await change(store, "UPDATE snapshots SET snapshotter = 'zfs'")
        findings, _ = await check(store)
        assert next(each.code for each in findings) == "SNAPSHOTTER_MISSING"
        assert "zfs" in findings[0].object


async def test_a_snapshotter_checks_its_folders(tmp_path: Path) -> None:
    snapshotter = VfsSnapshotter(tmp_path)
    assert isinstance(snapshotter, CheckedSnapshotter)
    await snapshotter.prepare("rw", "")
    assert await snapshotter.faults() == []
    [folder] = (tmp_path / "snapshots").iterdir()
    folder.rename(tmp_path / "snapshots" / "77")
    leftover, damaged = await snapshotter.faults()
    assert (leftover.key, leftover.path) == ("", str(tmp_path / "snapshots" / "77"))
    assert damaged.key == "rw"
    await snapshotter.cleanup()
    assert [each.key for each in await snapshotter.faults()] == ["rw"]
    await snapshotter.aclose()


@pytest.mark.parametrize("damage", ["{", "[1]", '{"a": 1}', b"\xff\xfe", "null"])
async def test_labels_that_cannot_be_read_come_back_from_the_graph(tmp_path: Path, damage: Any) -> None:
    async with World(tmp_path).open() as store:
        layer = await put(store, b"layer")
        manifest = await put(store, b"manifest", {"ref.content.l.0": layer, "root": "1"})
        await change(store, "UPDATE contents SET labels = CAST(? AS TEXT) WHERE digest = ?", damage, manifest)
        found = await mends(store, "ROW_DAMAGED")
        assert (found.namespace, found.object) == ("testing", f"blob {manifest}")
        labels = (await store.content.info(NS, manifest)).labels
        assert layer in labels.values()
        assert labels["containerd.io/gc.root"]
        # A change of its labels keeps what it refers to.
        info = await store.content.info(NS, manifest)
        await store.content.update(NS, info)
        await store.gc.collect()
        assert await digests(store) == {layer, manifest}


async def test_references_of_nobody_are_removed(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store:
        digest = await put(store, b"blob", {"root": "1"})
        await change(store, "INSERT INTO edges VALUES ('testing', 'i:ghost', ?, 'i:ghost')", f"c:{digest}")
        await mends(store, "REFERENCE_STALE")
        assert await digests(store) == {digest}


async def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        for number in range(20):
            await put(store, f"{number}".encode(), {"root": "1"})

        def corrupt(conn: Connection) -> None:
            conn.execute("PRAGMA writable_schema = ON")

        await store.db.write(corrupt)
        with closing(sqlite3.connect(world.database)) as conn:
            conn.execute("PRAGMA foreign_keys = OFF")
            conn.execute("DELETE FROM namespaces")
            conn.commit()
        findings, _ = await check(store, repair=True)
        assert {each.code for each in findings} == {"DATABASE"}
        assert all("belongs to none of namespaces" in each.message for each in findings)


async def test_a_check_can_be_cancelled(tmp_path: Path) -> None:
    async with World(tmp_path).open() as store:
        await put(store, b"blob", {"root": "1"})
        reports: Callable[..., Any] = store.checker.check
        running = reports()
        assert isinstance(await anext(running), Progress)
        await running.aclose()
        assert (await check(store))[0] == []


async def test_one_bad_row_hides_no_other_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    async with world.open() as store:
        mem = store.snapshots.for_name("mem")
        for name in ("a", "b", "c"):
            digest = await put(store, name.encode(), {"root": "1"})
            await put_image(store, name, digest)
            await mem.prepare(NS, name, labels={"containerd.io/gc.root": "1"})
            await store.containers.create(NS, Container(name, "runc", spec=TypedBytes("spec", b"{}")))
            await store.leases.create(NS, name)
            await store.namespaces.create(NS, name)
        for table, key in (
            *(("images", "name"), ("snapshots", "key"), ("containers", "id"), ("leases", "id")),
            ("namespaces", "name"),
        ):
            await change(store, f"UPDATE {table} SET labels = '{{broken' WHERE {key} = 'b'")
        await change(store, "UPDATE contents SET labels = '[]' WHERE digest = ?", sha256(b"b"))
        await change(store, "UPDATE snapshots SET kind = 'strange' WHERE key = 'c'")
    # The next daemon starts, and shows all that is sound.
    async with world.open() as store:
        assert await digests(store) == {sha256(b"a"), sha256(b"c")}
        assert await keys(store) == {"a"}
        assert [each.name for each in await store.images.list(NS)] == ["a", "c"]
        assert [each.id for each in await store.containers.list(NS)] == ["a", "c"]
        assert [each.id for each in await store.leases.list(NS)] == ["a", "c"]
        assert [each.name for each in await store.namespaces.list()] == ["a", "c", "testing"]
        assert "a damaged row is left out" in caplog.text
        # What is damaged is refused by name, not overwritten.
        with pytest.raises(DataLoss, match="cannot be read"):
            await store.images.get(NS, "b")
        await store.gc.collect()
        findings, _ = await check(store, repair=True)
        assert {each.object for each in findings if each.code == "ROW_DAMAGED"} == {
            *(f"{kind} b" for kind in ("image", "container", "lease", "namespace")),
            *("snapshot mem/b", f"blob {sha256(b'b')}"),
        }
        assert await digests(store) == {sha256(b"a"), sha256(b"b"), sha256(b"c")}
        assert [each.name for each in await store.images.list(NS)] == ["a", "b", "c"]
