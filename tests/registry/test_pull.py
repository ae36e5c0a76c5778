"""Pulling from a real registry, down to unpacked snapshots."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlop_plugins.overlayfs.snapshotter import OverlaySnapshotter
from orlop_plugins.tar.jobs import ApplyJob
from orlop_plugins.tar.pool import WorkerPool
from orlopd.core.content import Sharing
from orlopd.core.progress import BlobState
from orlopd.core.scope import Scope
from orlopd.plugin import Credentials, ResolveOptions
from orlopd.plugin.errors import InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from orlopd.plugin.values import Platform, chain_id
from tests.registry.conftest import NOTHING, SCOPE, Rig, open_rig
from tests.support.images import (
    MANIFEST,
    File,
    SmallImage,
    digest_of,
    make_image,
    make_index,
    tar_of,
    text_layer,
    write_layout,
)
from tests.support.registry import SECRET_WORD, Registry, registry


def two_layers(mark: str) -> SmallImage:
    return make_image([text_layer("one", f"1 {mark}"), text_layer("two", f"2 {mark}")])


def diff_ids(image: SmallImage) -> list[str]:
    config = image.document(image.document()["config"]["digest"])
    return config["rootfs"]["diff_ids"]


async def read_file(rig: Rig, diff_ids: list[str], name: str) -> str:
    snapshotter = rig.store.snapshots.for_name("vfs")
    [mount] = await snapshotter.view(SCOPE, f"look {name}", chain_id(diff_ids))
    return await anyio.Path(mount.source, name).read_text()


async def test_a_pull_stores_unpacks_and_names_the_image(rig: Rig, server: Registry) -> None:
    image = two_layers("plain")
    reference = server.push("plain/image:1", image)
    pulled = await rig.pull(reference)
    assert pulled.name == reference
    assert pulled.target.digest == image.digest
    assert (await rig.left())["content"] == sorted(image.blobs)
    assert (await rig.left())["images"] == [reference]
    assert (await rig.left())["leases"] == []
    assert (await rig.left())["ingests"] == []
    assert await read_file(rig, diff_ids(image), "one") == "1 plain"
    assert await read_file(rig, diff_ids(image), "two") == "2 plain"


async def test_a_pull_sets_the_labels_of_containerd(rig: Rig, server: Registry) -> None:
    image = two_layers("labels")
    await rig.pull(server.push("labels/image:1", image))
    manifest = image.document()
    content = rig.store.content
    labels = dict((await content.info(SCOPE, image.digest)).labels)
    assert labels.pop(f"containerd.io/distribution.source.{server.address}") == "labels/image"
    assert labels == {
        "containerd.io/gc.ref.content.config": manifest["config"]["digest"],
        "containerd.io/gc.ref.content.l.0": image.layers[0],
        "containerd.io/gc.ref.content.l.1": image.layers[1],
    }
    config = (await content.info(SCOPE, manifest["config"]["digest"])).labels
    assert config["containerd.io/gc.ref.snapshot.vfs"] == chain_id(diff_ids(image))
    for layer, diff_id in zip(image.layers, diff_ids(image), strict=True):
        assert (await content.info(SCOPE, layer)).labels["containerd.io/uncompressed"] == diff_id
    snapshot = await rig.store.snapshots.for_name("vfs").stat(SCOPE, chain_id(diff_ids(image)))
    assert snapshot.labels["containerd.io/snapshot.ref"] == chain_id(diff_ids(image))


async def test_progress_tells_each_blob_through_its_states(rig: Rig, server: Registry) -> None:
    image = two_layers("progress")
    reference = server.push("progress/image:1", image)
    await rig.pull(reference)
    assert rig.events[0] == rig.resolved[0]
    assert (rig.resolved[0].name, rig.resolved[0].digest) == (reference, image.digest)
    for layer in image.layers:
        assert rig.states(layer) == [
            BlobState.WAITING,
            BlobState.FETCHING,
            BlobState.FETCHED,
            BlobState.UNPACKING,
            BlobState.UNPACKED,
        ]
    assert rig.states(image.digest) == [BlobState.FETCHING, BlobState.FETCHED]


async def test_pulling_again_asks_once_and_fetches_nothing(rig: Rig, server: Registry) -> None:
    image = two_layers("again")
    reference = server.push("again/image:1", image)
    first = await rig.pull(reference)
    asked = len([each for each in server.requests if "/again/image/" in each.path])
    rig.events.clear()
    again = await rig.pull(reference)
    assert again.target == first.target
    new = [each for each in server.requests if "/again/image/" in each.path][asked:]
    assert [(each.method, each.path) for each in new] == [("HEAD", "/v2/again/image/manifests/1")]
    assert rig.states(image.layers[0]) == [BlobState.WAITING, BlobState.EXISTS, BlobState.UNPACKED]
    assert again.updated_at == first.updated_at


async def test_pulling_again_waits_for_no_disk(
    rig: Rig, server: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = server.push("again/synced:1", two_layers("synced"))
    await rig.pull(reference)
    write, synced = rig.store.db.write, list[bool]()

    async def noting(change: Any, *, alone: bool = False, durable: bool = True) -> Any:
        if not alone:  # that is the collector's
            synced.append(durable)
        return await write(change, alone=alone, durable=durable)

    monkeypatch.setattr(rig.store.db, "write", noting)
    await rig.pull(reference)
    assert synced
    assert not any(synced)


async def test_a_moved_tag_moves_the_name_and_keeps_its_labels(rig: Rig, server: Registry) -> None:
    reference = server.push("moved/image:1", two_layers("before"))
    first = await rig.pull(reference)
    await rig.store.images.update(
        SCOPE, first.__class__(first.name, first.target, {"mine": "yes"}), ["labels"]
    )
    newer = two_layers("after")
    server.push("moved/image:1", newer)
    moved = await rig.pull(reference)
    assert moved.target.digest == newer.digest
    assert moved.labels == {"mine": "yes"}
    assert await rig.digests() == set(newer.blobs)


async def test_only_the_platform_of_this_machine_is_fetched(rig: Rig, server: Registry) -> None:
    mine, other = two_layers("mine"), make_image([text_layer("other", "other")], architecture="s390x")
    name = f"linux/{mine.document(mine.document()['config']['digest'])['architecture']}"
    index = make_index({"linux/s390x": other, name: mine})
    reference = server.push("multi/image:1", index)
    pulled = await rig.pull(reference)
    assert pulled.target.digest == index.digest
    assert await rig.digests() == {index.digest, *mine.blobs}
    again = await rig.pull(
        server.push("multi/image:1", index), platform=Platform("linux", "s390x"), unpack=False
    )
    assert again.target.digest == index.digest
    assert await rig.digests() == set(index.blobs)


async def test_a_platform_that_is_not_offered_is_not_found(rig: Rig, server: Registry) -> None:
    index = make_index({"linux/s390x": make_image([], architecture="s390x")})
    with pytest.raises(NotFound, match=r"nothing for linux/.*it is for: linux/s390x"):
        await rig.pull(server.push("elsewhere/image:1", index))
    single = server.push("elsewhere/single:1", make_image([], architecture="s390x"))
    with pytest.raises(NotFound, match="it is for: linux/s390x"):
        await rig.pull(single)
    assert await rig.left() == NOTHING


async def test_a_reference_with_a_digest_gets_exactly_that(rig: Rig, server: Registry) -> None:
    old, new = two_layers("old"), two_layers("new")
    reference = server.push("pinned/image:1", old)
    server.push("pinned/image:1", new)
    pulled = await rig.pull(f"{reference}@{old.digest}")
    assert pulled.target.digest == old.digest
    assert pulled.name == f"{reference}@{old.digest}"


async def test_an_unknown_image_is_not_found(rig: Rig, server: Registry) -> None:
    with pytest.raises(
        NotFound, match=f"no image {server.address}/nosuch/image:1 at registry {server.address}"
    ):
        await rig.pull(f"{server.address}/nosuch/image:1")
    assert await rig.left() == NOTHING


async def test_ten_pulls_at_once_fetch_each_blob_once(tmp_path: Path, server: Registry) -> None:
    image = two_layers("shared")
    other = make_image([text_layer("one", "1 shared"), text_layer("three", "3")])
    references = [server.push("shared/a:1", image), server.push("shared/b:1", other)]
    async with open_rig(tmp_path) as rig:
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(rig.pull, references[number % 2])
        for digest in {*image.layers, *other.layers}:
            assert server.fetched(digest) == 1
        assert (await rig.left())["leases"] == []


@pytest.mark.parametrize("snapshotter", ["vfs", "overlayfs"])
async def test_ten_pulls_at_once_unpack_each_layer_once(
    tmp_path: Path, server: Registry, monkeypatch: pytest.MonkeyPatch, snapshotter: str
) -> None:
    jobs: list[ApplyJob] = []
    real = WorkerPool.run

    async def counting(self: WorkerPool, job: Any, *more: Any, **options: Any) -> Any:
        jobs.append(job)
        return await real(self, job, *more, **options)

    monkeypatch.setattr(WorkerPool, "run", counting)
    image = two_layers("once")
    other = make_image([text_layer("one", "1 once"), text_layer("three", "3")])
    references = [server.push("once/a:1", image), server.push("once/b:1", other)]
    (tmp_path / "overlayfs").mkdir()
    overlay = OverlaySnapshotter(tmp_path / "overlayfs")
    rigged = open_rig(tmp_path, snapshotters={"overlayfs": overlay})
    async with rigged as rig, anyio.create_task_group() as group:
        for number in range(10):
            pull = functools.partial(rig.pull, references[number % 2], snapshotter=snapshotter)
            group.start_soon(pull)
    await overlay.aclose()
    assert len(jobs) == 3, "two layers, and the one that the other image does not share"


async def test_another_namespace_shares_what_is_here(rig: Rig, server: Registry) -> None:
    image = two_layers("namespaces")
    reference = server.push("namespaces/image:1", image)
    await rig.pull(reference)
    await rig.puller.pull(Scope("second"), reference, report=rig.report)
    assert [server.fetched(layer) for layer in image.layers] == [1, 1]


@pytest.mark.parametrize("sharing", Sharing)
async def test_an_image_is_shared_with_another_namespace_read_only(
    tmp_path: Path, server: Registry, sharing: Sharing
) -> None:
    image = two_layers("read-only")
    reference = server.push("namespaces/given:1", image)
    second = Scope("second")
    async with open_rig(tmp_path, sharing=sharing) as rig:
        mine = await rig.pull(reference)
        asked = len(server.requests)
        given = await rig.sharer.share(SCOPE, mine, second, "docker.io/library/given:1")
        assert (given.name, given.target.digest) == ("docker.io/library/given:1", image.digest)
        await rig.store.gc.collect()
        assert {info.digest async for info in rig.store.content.walk(second)} == set(image.blobs)
        assert len(list((tmp_path / "content" / "blobs" / "sha256").iterdir())) == len(image.blobs)
        # Either can do with its own as it likes: the other has the image as it was.
        await rig.store.images.delete(SCOPE, reference, sync=True)
        assert await rig.digests() == set()
        await rig.unpacker.unpack(second, given.target)
        assert len(server.requests) == asked
        for lease in (SCOPE, second):
            assert await rig.store.leases.list(lease) == []
        await rig.store.images.delete(second, given.name, sync=True)
        assert list((tmp_path / "content" / "blobs" / "sha256").iterdir()) == []


async def test_without_unpack_there_are_no_snapshots(rig: Rig, server: Registry) -> None:
    image = two_layers("packed")
    pulled = await rig.pull(server.push("packed/image:1", image), unpack=False)
    assert (await rig.left())["snapshots"] == []
    chain = await rig.unpacker.unpack(SCOPE, pulled.target)
    assert (await rig.left())["snapshots"] == sorted([chain_id(diff_ids(image)[:1]), chain])


async def test_a_plugin_may_refuse_an_image_before_its_layers_come(rig: Rig, server: Registry) -> None:
    image = two_layers("refused")
    reference = server.push("refused/image:1", image)
    rig.hooks.refused.add(reference)
    with pytest.raises(PermissionDenied, match="not allowed here"):
        await rig.pull(reference)
    assert rig.hooks.seen == [f"tests {reference} {image.digest}"]
    assert [server.fetched(layer) for layer in image.layers] == [0, 0]
    assert await rig.left() == NOTHING


async def test_an_artifact_is_fetched_but_not_unpacked(rig: Rig, server: Registry) -> None:
    config: dict[str, Any] = {"mediaType": "application/vnd.tests.thing.v1+json"}
    image = make_image([text_layer("data", "data")])
    manifest = image.document()
    manifest["config"] |= config
    data = json.dumps(manifest).encode()
    artifact = SmallImage(
        {"mediaType": MANIFEST, "digest": digest_of(data), "size": len(data)},
        {**{key: value for key, value in image.blobs.items() if key != image.digest}, digest_of(data): data},
    )
    reference = server.push("artifact/thing:1", artifact)
    with pytest.raises(InvalidArgument, match="an artifact"):
        await rig.pull(reference)
    await rig.pull(reference, unpack=False)
    assert await rig.digests() == set(artifact.blobs)


async def test_two_equal_layers_and_an_empty_image(rig: Rig, server: Registry) -> None:
    layer = text_layer("same", "same")
    await rig.pull(server.push("equal/image:1", make_image([layer, layer])))
    await rig.pull(server.push("empty/image:1", make_image([])))
    assert len((await rig.left())["images"]) == 2


async def test_whiteouts_and_modes_arrive(rig: Rig, server: Registry) -> None:
    image = make_image([text_layer("gone", "x"), tar_of([File(".wh.gone", b""), File("bin", b"#!", 0o755)])])
    await rig.pull(server.push("whiteout/image:1", image))
    snapshotter = rig.store.snapshots.for_name("vfs")
    [mount] = await snapshotter.view(SCOPE, "look", chain_id(diff_ids(image)))
    root = Path(mount.source)
    assert not (root / "gone").exists()
    assert (root / "bin").stat().st_mode & 0o777 == 0o755


async def test_what_skopeo_pushed_is_pulled(rig: Rig, server: Registry, tmp_path: Path) -> None:
    image = two_layers("skopeo")
    layout = write_layout(tmp_path / "layout", "1", image)
    name = f"{server.address}/skopeo/image:1"
    copy = ["skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:1", f"docker://{name}"]
    with anyio.fail_after(30):
        await anyio.run_process(copy)
    pulled = await rig.pull(name)
    assert pulled.target.digest == image.digest


async def test_docker_hub_names_are_completed_before_anything_is_asked(rig: Rig) -> None:
    with pytest.raises(InvalidArgument, match="uppercase"):
        await rig.pull("docker.io/library/Alpine")
    with pytest.raises(InvalidArgument, match="no resolver takes"):
        await rig.pull("carrier-pigeon:/nowhere")


async def test_basic_authentication_takes_credentials_and_shows_them_nowhere(rig: Rig) -> None:
    with registry(htpasswd=f"user:{SECRET_WORD}\n") as private:
        name = f"{private.address}/private/image:1"
        with pytest.raises(Unauthenticated, match="wants credentials"):
            await rig.pull(name)
        with pytest.raises(Unauthenticated, match="refuses the credentials") as refused:
            await rig.pull(name, options=ResolveOptions(Credentials("user", "wrong-word")))
        assert "wrong-word" not in str(refused.value)
        with pytest.raises(NotFound):
            await rig.pull(name, options=ResolveOptions(Credentials("user", "secret-word")))
