"""Remote snapshotters, which have layers without a fetch, and layers that are not kept once unpacked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from orlop_plugins.overlayfs.snapshotter import OverlaySnapshotter
from orlopd.core.layers import layer_hints
from orlopd.core.progress import BlobState
from orlopd.core.scope import Scope
from orlopd.core.transfer import StoreEnd, Unpacking
from orlopd.plugin import ResolveOptions
from orlopd.plugin.errors import FailedPrecondition, NotFound
from orlopd.plugin.values import Descriptor, Platform, chain_id
from tests.registry.conftest import NOTHING, SCOPE, Rig, open_rig
from tests.registry.test_push import artifact
from tests.support.images import ARCHITECTURE, SmallImage, layout_tar, make_image, make_index, text_layer
from tests.support.registry import Registry
from tests.thirdparty.test_copies import load

PAGE = Path(__file__).parent.parent / "thirdparty" / "drop-in" / "remote.py"
CRI = "containerd.io/snapshot/cri."


def three_layers(mark: str) -> SmallImage:
    return make_image([text_layer(name, f"{name} {mark}") for name in ("one", "two", "three")])


def chains(image: SmallImage) -> list[str]:
    diff_ids = image.document(image.document()["config"]["digest"])["rootfs"]["diff_ids"]
    return [chain_id(diff_ids[: number + 1]) for number in range(len(diff_ids))]


@pytest.fixture
def remote(tmp_path: Path) -> Any:
    """A remote snapshotter; :func:`knows` gives it layers."""
    for name in ("remote", "trees"):
        (tmp_path / name).mkdir()
    return load(PAGE).Remote(tmp_path / "remote", tmp_path / "trees")


def knows(remote: Any, digest: str, name: str, text: str) -> None:
    tree = remote.trees / digest.replace(":", "-")
    tree.mkdir()
    (tree / name).write_text(text)


@pytest.fixture
async def lazy(tmp_path: Path, remote: Any) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path, snapshotters={"remote": remote}) as rig:
        yield rig


async def files_of(rig: Rig, chain: str, snapshotter: str) -> dict[str, str]:
    [mount] = await rig.store.snapshots.for_name(snapshotter).view(SCOPE, f"look {chain}", chain)
    return {path.name: await path.read_text() async for path in anyio.Path(mount.source).iterdir()}


async def test_layers_that_a_remote_snapshotter_has_are_not_fetched(
    lazy: Rig, remote: Any, server: Registry
) -> None:
    image = three_layers("lazy")
    reference = server.push("lazy/image:1", image)
    for number, name in enumerate(("one", "two")):
        knows(remote, image.layers[number], name, "by itself")
    await lazy.pull(reference, snapshotter="remote")
    assert [server.fetched(layer) for layer in image.layers] == [0, 0, 1]
    top = chains(image)[-1]
    assert await files_of(lazy, top, "remote") == {
        "one": "by itself",
        "two": "by itself",
        "three": "three lazy",
    }
    assert lazy.states(image.layers[0]) == [BlobState.WAITING, BlobState.UNPACKED]
    left = await lazy.left()
    assert (left["ingests"], left["leases"]) == ([], [])
    # Pulled again, nothing is fetched either, though two blobs are not here.
    await lazy.pull(reference, snapshotter="remote")
    assert [server.fetched(layer) for layer in image.layers] == [0, 0, 1]
    # Nor for another image on the same layers, and all of it for one that is to be kept whole.
    other = make_image([text_layer("one", "one lazy"), text_layer("else", "else")])
    await lazy.pull(server.push("lazy/other:1", other), snapshotter="remote")
    assert [server.fetched(layer) for layer in other.layers] == [0, 1]
    await lazy.pull(reference, unpack=False)
    assert [server.fetched(layer) for layer in image.layers] == [1, 1, 1]


async def test_a_remote_snapshotter_that_has_all_has_none_fetched(
    lazy: Rig, remote: Any, server: Registry
) -> None:
    image = three_layers("all")
    for number, layer in enumerate(image.layers):
        knows(remote, layer, str(number), "by itself")
    pulled = await lazy.pull(server.push("lazy/all:1", image), snapshotter="remote")
    assert [server.fetched(layer) for layer in image.layers] == [0, 0, 0]
    assert await lazy.unpacker.unpack(SCOPE, pulled.target, snapshotter="remote") == chains(image)[-1]
    with pytest.raises(FailedPrecondition, match="not all here") as missing:
        await lazy.unpacker.unpack(SCOPE, pulled.target, snapshotter="vfs")
    assert missing.value.reason == "INCOMPLETE_IMAGE"
    await lazy.store.images.delete(SCOPE, pulled.name)
    assert await lazy.left() == NOTHING
    assert [info.name async for info in lazy.store.snapshots.for_name("remote").walk(SCOPE)] == []


async def test_a_remote_snapshotter_is_told_what_containerd_s_clients_tell_it(
    lazy: Rig, remote: Any, server: Registry
) -> None:
    image = three_layers("told")
    reference = server.push("lazy/told:1", make_index({f"linux/{ARCHITECTURE}": image}))
    await lazy.pull(reference, snapshotter="remote")
    for number, labels in enumerate(remote.asked):
        assert labels == {
            "containerd.io/snapshot.ref": chains(image)[number],
            f"{CRI}image-ref": reference,
            f"{CRI}manifest-digest": image.digest,
            f"{CRI}layer-digest": image.layers[number],
            f"{CRI}image-layers": ",".join(image.layers[number:]),
        }
    assert len(remote.asked) == 3
    # They are for prepare: a layer that was unpacked here does not keep them.
    snapshotter = lazy.store.snapshots.for_name("remote")
    for chain in chains(image):
        labels = (await snapshotter.stat(SCOPE, chain)).labels
        assert set(labels) == {"containerd.io/snapshot.ref"}


def test_the_list_of_layers_ends_where_a_label_would_be_too_long() -> None:
    layers = [Descriptor("layer", f"sha256:{number:064x}", 1) for number in range(70)]
    hints = layer_hints("here/many:1", f"sha256:{1:064x}", layers)
    listed = hints[f"{CRI}image-layers"].split(",")
    assert listed == [layer.digest for layer in layers[: len(listed)]]
    assert 50 < len(listed) < 70
    assert all(len(key) + len(value) <= 4096 for key, value in hints.items())
    assert layer_hints("", f"sha256:{1:064x}", layers) == {}


@pytest.fixture(params=["vfs", "overlayfs"])
async def thin(request: Any, tmp_path: Path) -> AsyncIterator[tuple[Rig, str]]:
    """A rig and a snapshotter: one that unpacks layers in order, one that unpacks them side by side."""
    (tmp_path / "overlayfs").mkdir()
    overlay = OverlaySnapshotter(tmp_path / "overlayfs")
    async with open_rig(tmp_path, snapshotters={"overlayfs": overlay}) as rig:
        yield rig, request.param


async def test_layers_are_dropped_once_unpacked(thin: tuple[Rig, str], server: Registry) -> None:
    rig, snapshotter = thin
    image = three_layers(f"thin {snapshotter}")
    reference = server.push(f"thin/{snapshotter}:1", image)
    pulled = await rig.pull(reference, snapshotter=snapshotter, discard=True)
    config = image.document()["config"]["digest"]
    assert await rig.digests() == {image.digest, config}
    assert (await rig.left())["leases"] == []
    found = [info.name async for info in rig.store.snapshots.for_name(snapshotter).walk(SCOPE)]
    assert sorted(found) == sorted(chains(image))
    # It runs, and is pulled again by the same one request.
    assert await rig.unpacker.unpack(SCOPE, pulled.target, snapshotter=snapshotter) == chains(image)[-1]
    await rig.pull(reference, snapshotter=snapshotter, discard=True)
    assert [server.fetched(layer) for layer in image.layers] == [1, 1, 1]
    # A new image on top of it needs the new layer alone.
    texts = [text_layer(name, f"{name} thin {snapshotter}") for name in ("one", "two", "three")]
    newer = make_image([*texts, text_layer("four", f"four {snapshotter}")])
    await rig.pull(server.push(f"thin/{snapshotter}:2", newer), snapshotter=snapshotter, discard=True)
    assert [server.fetched(layer) for layer in newer.layers] == [1, 1, 1, 1]


async def test_a_dropped_layer_is_told_where_it_is_needed_and_fetched_again(
    thin: tuple[Rig, str], server: Registry
) -> None:
    rig, snapshotter = thin
    image = three_layers(f"again {snapshotter}")
    reference = server.push(f"thin/again-{snapshotter}:1", image)
    pulled = await rig.pull(reference, snapshotter=snapshotter, discard=True)
    await rig.store.gc.collect()
    with pytest.raises(FailedPrecondition, match=r"not all here") as missing:
        await rig.push(reference, f"{server.address}/thin/elsewhere-{snapshotter}:1")
    assert missing.value.reason == "INCOMPLETE_IMAGE"
    with pytest.raises(NotFound, match="not all here") as gone:
        async for _ in rig.archiver.export_archive(SCOPE, [reference]):
            pass
    assert gone.value.reason == "INCOMPLETE_IMAGE"
    # Where it came from it can be pushed.
    await rig.push(reference, f"{server.address}/thin/again-{snapshotter}:2")
    other = {"vfs": "overlayfs", "overlayfs": "vfs"}[snapshotter]
    with pytest.raises(FailedPrecondition, match="not all here"):
        await rig.unpacker.unpack(SCOPE, pulled.target, snapshotter=other)
    await rig.pull(reference, snapshotter=snapshotter)
    assert await rig.digests() == set(image.blobs)
    await rig.push(reference, f"{server.address}/thin/elsewhere-{snapshotter}:1")


async def test_ten_pulls_at_once_fetch_each_blob_once_and_drop_all(
    thin: tuple[Rig, str], server: Registry
) -> None:
    rig, snapshotter = thin
    images = [
        make_image([text_layer("one", f"shared {snapshotter}"), text_layer("own", f"{number} {snapshotter}")])
        for number in range(2)
    ]
    names = [server.push(f"thin/ten-{snapshotter}:{each}", image) for each, image in enumerate(images)]
    async with anyio.create_task_group() as group:
        for number in range(10):

            async def pull(name: str = names[number % 2]) -> None:
                await rig.pull(name, snapshotter=snapshotter, discard=True)

            group.start_soon(pull)
    assert {server.fetched(layer) for image in images for layer in image.layers} == {1}
    documents = {digest for image in images for digest in image.blobs} - {
        layer for image in images for layer in image.layers
    }
    assert await rig.digests() == documents
    assert (await rig.left())["leases"] == []


async def test_a_layer_that_another_image_or_namespace_keeps_stays(rig: Rig, server: Registry) -> None:
    layer = text_layer("one", "kept")
    kept = make_image([layer, text_layer("two", "kept")])
    dropped = make_image([layer, layer, text_layer("three", "dropped")])
    await rig.pull(server.push("keep/kept:1", kept))
    await rig.pull(server.push("keep/dropped:1", dropped), discard=True)
    assert await rig.digests() == {*kept.blobs, dropped.digest, dropped.document()["config"]["digest"]}
    second = Scope("second")
    await rig.puller.pull(second, f"{server.address}/keep/kept:1", discard=True)
    await rig.store.gc.collect()
    assert await rig.digests() >= set(kept.blobs)
    assert {info.digest async for info in rig.store.content.walk(second)} == {
        kept.digest,
        kept.document()["config"]["digest"],
    }


async def test_further_platforms_are_kept(rig: Rig, server: Registry) -> None:
    mine, other = three_layers("mine"), make_image([text_layer("o", "o")], architecture="s390x")
    index = make_index({f"linux/{ARCHITECTURE}": mine, "linux/s390x": other})
    await rig.pull(server.push("keep/both:1", index), discard=True, also=[Platform("linux", "s390x")])
    assert await rig.digests() == {
        index.digest,
        mine.digest,
        mine.document()["config"]["digest"],
        *other.blobs,
    }


async def test_of_all_platforms_the_one_that_is_unpacked_is_dropped(rig: Rig, server: Registry) -> None:
    mine, other = three_layers("mine, all"), make_image([text_layer("o", "all")], architecture="s390x")
    note = artifact("all", mine.target)
    index = make_index({f"linux/{ARCHITECTURE}": mine, "linux/s390x": other}, note.target)
    whole = SmallImage(index.target, {**index.blobs, **note.blobs})
    reference = server.push("keep/all:1", whole)
    for _ in range(2):
        await rig.pull(reference, discard=True, also=None)
        assert await rig.digests() == set(whole.blobs) - set(mine.layers)
        assert (await rig.left())["leases"] == []
    assert {server.fetched(layer) for layer in mine.layers} == {1}
    await rig.pull(reference, discard=False, also=None)
    assert await rig.digests() == set(whole.blobs)


async def test_an_import_drops_what_it_has_unpacked(thin: tuple[Rig, str], server: Registry) -> None:
    rig, snapshotter = thin
    mine, other = three_layers("imported"), make_image([text_layer("o", "imported")], architecture="s390x")
    index = make_index({f"linux/{ARCHITECTURE}": mine, "linux/s390x": other})

    async def take(name: str, image: SmallImage, **options: Any) -> None:
        entry = image.target | {"annotations": {"io.containerd.image.name": name}}

        async def pieces() -> AsyncIterator[bytes]:
            yield layout_tar(image, [entry])

        await rig.archiver.import_archive(SCOPE, pieces(), snapshotter=snapshotter, **options)

    await take("docker.io/library/thin:1", index, discard=True)
    assert await rig.digests() == set(index.blobs) - set(mine.layers)
    assert (await rig.left())["leases"] == []
    target = (await rig.store.images.get(SCOPE, "docker.io/library/thin:1")).target
    assert await rig.unpacker.unpack(SCOPE, target, snapshotter=snapshotter) == chains(mine)[-1]
    # What is not unpacked is kept whole, and so is what somebody else keeps.
    await take("docker.io/library/kept:1", mine, unpack=False)
    await take("docker.io/library/thin:2", mine, discard=True)
    assert await rig.digests() == set(index.blobs)
    lone = make_image([text_layer("o", "for others alone")], architecture="s390x")
    await take("docker.io/library/lone:1", lone, discard=True)
    assert await rig.digests() >= set(lone.blobs)


@pytest.mark.parametrize("unpacks", [("vfs",), ("vfs", "overlayfs")])
async def test_transfers_drop_what_the_config_says(
    tmp_path: Path, server: Registry, unpacks: tuple[str, ...]
) -> None:
    (tmp_path / "overlayfs").mkdir()
    overlay = OverlaySnapshotter(tmp_path / "overlayfs")
    async with open_rig(tmp_path, snapshotters={"overlayfs": overlay}, discard=True) as rig:
        image = three_layers(f"transferred {unpacks}")
        reference = server.push("thin/transfer:1", image)
        wanted = tuple(Unpacking(snapshotter=each) for each in unpacks)
        thin = {image.digest, image.document()["config"]["digest"]}
        await rig.transfers.pull(SCOPE, reference, StoreEnd("pulled:1", unpacks=wanted), ResolveOptions())
        assert await rig.digests() == thin

        async def pieces() -> AsyncIterator[bytes]:
            yield layout_tar(image, [image.target])

        await rig.store.images.delete(SCOPE, "pulled:1", sync=True)
        await rig.transfers.import_archive(SCOPE, pieces(), StoreEnd("imported:1", unpacks=wanted))
        assert await rig.digests() == thin
        for each in unpacks:
            found = [info.name async for info in rig.store.snapshots.for_name(each).walk(SCOPE)]
            assert sorted(found) == sorted(chains(image))


async def test_at_no_time_is_there_more_than_what_is_still_to_be_unpacked(
    tmp_path: Path, server: Registry
) -> None:
    """Each layer goes while others are still on their way: a fetch at a time, and collections meanwhile."""
    image = make_image(
        [text_layer(f"f{number}", f"{number}" * 50_000) for number in range(6)], compress=False
    )
    reference = server.push("thin/narrow:1", image)
    most = 0
    async with open_rig(tmp_path) as rig:
        rig.puller._concurrency = 1  # pyright: ignore[reportPrivateUsage]

        def look(event: Any) -> None:
            nonlocal most
            stored = tmp_path / "content" / "blobs"
            most = max(most, sum(path.stat().st_size for path in stored.rglob("*") if path.is_file()))

        async with anyio.create_task_group() as group:

            async def collect() -> None:
                while True:
                    await rig.store.gc.collect()
                    await anyio.lowlevel.checkpoint()

            group.start_soon(collect)
            await rig.puller.pull(SCOPE, reference, discard=True, report=look)
            group.cancel_scope.cancel()
    whole = sum(len(data) for data in image.blobs.values())
    assert most < whole
