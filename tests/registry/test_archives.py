"""Import, export and build: we read what others write, they read ours, hostile input leaves nothing."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlopd.core import manifests
from orlopd.core.export import ExportOptions
from orlopd.core.manifests import ImageConfig
from orlopd.core.references import parse_reference
from orlopd.plugin.errors import InvalidArgument, NotFound, OrlopError, PermissionDenied
from orlopd.plugin.values import Image, Platform, chain_id
from tests.registry.conftest import NOTHING, SCOPE, Rig, open_rig
from tests.support.images import (
    ARCHITECTURE,
    INDEX,
    MANIFEST,
    File,
    SmallImage,
    digest_of,
    layout_tar,
    make_image,
    make_index,
    save_archive,
    save_docker_archive,
    tar_of,
    text_layer,
)


async def chunks(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def small(mark: str = "x") -> SmallImage:
    return make_image([text_layer("one", f"1 {mark}"), text_layer("two", f"2 {mark}")])


def named(image: SmallImage, name: str) -> bytes:
    return layout_tar(image, [image.target | {"annotations": {"io.containerd.image.name": name}}])


async def take(rig: Rig, data: bytes, name: str = "", **options: Any) -> list[Image]:
    return await rig.archiver.import_archive(SCOPE, chunks(data), name, **options)


async def give(rig: Rig, *names: str, platform: Platform | None = None) -> bytes:
    return b"".join([piece async for piece in rig.archiver.export_archive(SCOPE, names, platform)])


async def test_an_oci_archive_is_stored_unpacked_and_named(rig: Rig, tmp_path: Path) -> None:
    image = small()
    path = save_archive(tmp_path / "a.tar", "docker.io/library/app:1", "docker.io/library/app:2", image=image)
    for data in (path.read_bytes(), gzip.compress(path.read_bytes())):
        taken = await take(rig, data)
        assert [each.name for each in taken] == ["docker.io/library/app:1", "docker.io/library/app:2"]
        assert {each.target.digest for each in taken} == {image.digest}
    left = await rig.left()
    assert left["content"] == sorted(image.blobs)
    assert (left["leases"], left["ingests"], len(left["snapshots"])) == ([], [], 2)


async def test_a_docker_archive_is_stored_with_its_plain_layers(rig: Rig, tmp_path: Path) -> None:
    layers = [text_layer("one", "1"), text_layer("two", "2")]
    path = save_docker_archive(tmp_path / "a.tar", "app:1", "ghcr.io/team/app:1", layers=layers)
    taken = await take(rig, path.read_bytes())
    assert [each.name for each in taken] == ["docker.io/library/app:1", "ghcr.io/team/app:1"]
    config, diff_ids, manifest = await rig.stored.image_config(SCOPE, taken[0].target)
    assert config.cmd == ("sh",)
    assert [layer.media_type for layer in manifest.layers] == [manifests.DOCKER_LAYER] * 2
    assert list(diff_ids) == [digest_of(layer) for layer in layers]
    assert chain_id(diff_ids) in (await rig.left())["snapshots"]


async def test_links_to_layers_in_old_docker_archives_are_followed(rig: Rig) -> None:
    layer = text_layer("one", "1")
    config = json.dumps(
        {"os": "linux", "architecture": ARCHITECTURE, "rootfs": {"diff_ids": [digest_of(layer)] * 2}}
    ).encode()
    entry = {"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}
    data = tar_of(
        [
            File("a/layer.tar", layer),
            File("b/layer.tar", "../a/layer.tar"),
            File("c.json", config),
            File("manifest.json", json.dumps([entry]).encode()),
        ]
    )
    assert len(await take(rig, data)) == 1


async def test_an_unnamed_image_needs_a_name(rig: Rig) -> None:
    image = small()
    data = layout_tar(image, [image.target])
    with pytest.raises(InvalidArgument, match="leaves an image unnamed") as refused:
        await take(rig, data)
    assert refused.value.reason == "NAME_MISSING"
    assert await rig.left() == NOTHING
    assert [each.name for each in await take(rig, data, "app")] == ["docker.io/library/app:latest"]


async def test_names_come_from_annotations_as_containerd_reads_them(rig: Rig) -> None:
    image = small()

    async def names(annotations: dict[str, str], name: str = "") -> list[str]:
        data = layout_tar(image, [image.target | {"annotations": annotations}])
        return [each.name for each in await take(rig, data, name, unpack=False)]

    ref = "org.opencontainers.image.ref.name"
    assert await names({ref: "ghcr.io/team/app:1"}) == ["ghcr.io/team/app:1"]
    assert await names({ref: "app:1"}) == ["docker.io/library/app:1"]
    assert await names({ref: "v1", "io.containerd.image.name": "ghcr.io/app:2"}) == ["ghcr.io/app:2"]
    assert await names({ref: "v1"}, "given:2") == ["docker.io/library/given:2"]
    with pytest.raises(InvalidArgument, match="unnamed"):
        await names({ref: "v1"})
    with pytest.raises(InvalidArgument, match="malformed reference"):
        await names({"io.containerd.image.name": "../../etc"})


async def test_an_image_for_other_machines_is_stored_but_not_unpacked(rig: Rig) -> None:
    image = make_image([text_layer("x", "x")], architecture="s390x")
    await take(rig, named(image, "app:1"))
    left = await rig.left()
    assert (left["images"], left["snapshots"]) == (["docker.io/library/app:1"], [])


async def test_an_index_with_some_platforms_left_out_is_taken(rig: Rig) -> None:
    mine, other = small("mine"), make_image([text_layer("o", "o")], architecture="s390x")
    index = make_index({f"linux/{ARCHITECTURE}": mine, "linux/s390x": other})
    partial = SmallImage(index.target, {index.digest: index.blobs[index.digest], **mine.blobs})
    await take(rig, named(partial, "app:1"))
    assert await rig.digests() == set(partial.blobs)


async def test_a_plugin_may_refuse_what_an_archive_brings(rig: Rig) -> None:
    rig.hooks.refused.add("docker.io/library/app:1")
    with pytest.raises(PermissionDenied):
        await take(rig, named(small(), "app:1"))
    assert await rig.left() == NOTHING


async def test_an_image_that_is_here_is_taken_again(rig: Rig) -> None:
    image = small()
    await take(rig, named(image, "app:1"))
    await take(rig, named(image, "app:2"))
    assert (await rig.left())["images"] == ["docker.io/library/app:1", "docker.io/library/app:2"]


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def without(digest_index: int) -> Callable[[SmallImage], bytes]:
    def make(image: SmallImage) -> bytes:
        gone = list(image.blobs)[digest_index]
        blobs = {digest: data for digest, data in image.blobs.items() if digest != gone}
        return named(SmallImage(image.target, blobs), "app:1")

    return make


def swapped(image: SmallImage) -> bytes:
    """Every layer's bytes replaced by others of the same length."""
    blobs = {
        digest: bytes(len(data)) if digest in image.layers else data for digest, data in image.blobs.items()
    }
    return named(SmallImage(image.target, blobs), "app:1")


def resized(image: SmallImage) -> bytes:
    return named(SmallImage(image.target | {"size": 7}, image.blobs), "app:1")


def documents(index: Any, version: str = "1.0.0") -> bytes:
    return tar_of(
        [
            File("oci-layout", json.dumps({"imageLayoutVersion": version}).encode()),
            File("index.json", index if isinstance(index, bytes) else json.dumps(index).encode()),
        ]
    )


def docker(manifest: Any, *files: File) -> bytes:
    return tar_of([*files, File("manifest.json", json.dumps(manifest).encode())])


EMPTY_INDEX = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}

HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no archive": b"this is no archive\n" * 100,
    "a tar of something else": tar_of([File("hello", b"hello")]),
    "truncated": truncated(named(small(), "app:1")),
    "truncated gzip": truncated(gzip.compress(named(small(), "app:1"))),
    "gzip without its end": gzip.compress(named(small(), "app:1"))[:-4],
    "damaged gzip": gzip.compress(named(small(), "app:1"))[:200] + b"\xff" * 500,
    "xz": b"\xfd7zXZ\x00" + bytes(500),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(500),
    "a layer is missing": without(0)(small()),
    "the manifest is missing": without(3)(small()),
    "wrong bytes under a digest": swapped(small()),
    "wrong size": resized(small()),
    "no images": documents(EMPTY_INDEX),
    "another layout": documents(EMPTY_INDEX, "2.0.0"),
    "index is a list": documents([]),
    "CVE-2021-41190 index with layers": documents(EMPTY_INDEX | {"layers": []}),
    "CVE-2023-25153 giant index": documents(b"{" + b" " * (9 << 20) + b"}"),
    "CVE-2024-3727 digest with a path": documents(
        EMPTY_INDEX
        | {"manifests": [{"mediaType": MANIFEST, "digest": "sha256:../../../../etc/passwd", "size": 1}]}
    ),
    "CVE-2024-3727 blob with a path": tar_of([File("blobs/sha256/" + "z" * 64, b"x")]),
    "docker manifest that is no list": docker({}),
    "docker manifest without files": docker(
        [{"Config": "../../../etc/passwd", "RepoTags": ["app:1"], "Layers": []}]
    ),
    "docker manifest in a circle": docker(
        [{"Config": "a", "RepoTags": ["app:1"], "Layers": []}], File("a", "b"), File("b", "a")
    ),
    "docker layer of another image": docker(
        [{"Config": "c", "RepoTags": ["app:1"], "Layers": ["l"]}],
        File("c", json.dumps({"rootfs": {"diff_ids": [digest_of(b"other")]}}).encode()),
        File("l", text_layer("x", "x")),
    ),
    "docker layers that are too few": docker(
        [{"Config": "c", "RepoTags": ["app:1"], "Layers": []}],
        File("c", json.dumps({"rootfs": {"diff_ids": [digest_of(b"other")]}}).encode()),
    ),
    "docker name that is none": docker(
        [{"Config": "c", "RepoTags": ["../../x"], "Layers": []}], File("c", b"{}")
    ),
    "a layer that is no tar": named(make_image([b"no tar" * 500]), "app:1"),
}


@pytest.mark.parametrize("case", list(HOSTILE))
async def test_a_hostile_archive_is_one_error_and_nothing_is_kept(rig: Rig, case: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await take(rig, HOSTILE[case])
    assert len(refused.value.message) < 500
    assert refused.value.message.isprintable()
    assert await rig.left() == NOTHING


async def test_cve_2024_24557_known_content_is_not_replaced_by_an_archive(rig: Rig) -> None:
    image = small()
    await take(rig, named(image, "app:1"))
    await take(rig, swapped(image))
    for layer in image.layers:
        assert await rig.store.content.read_blob(SCOPE, layer, 1 << 20) == image.blobs[layer]


async def test_a_bomb_of_zeros_is_refused_early(rig: Rig) -> None:
    size = 2 << 30
    info = tarfile.TarInfo("blobs/sha256/" + "a" * 64)
    info.size = size
    sent = 0

    async def bomb() -> AsyncIterator[bytes]:
        nonlocal sent
        data = gzip.compress(bytes(64 << 20), 9)
        yield gzip.compress(info.tobuf())
        while True:
            sent += 1
            yield data

    with pytest.raises(InvalidArgument, match="more than 200 times its size"):
        await rig.archiver.import_archive(SCOPE, bomb(), "app")
    assert sent < 10
    assert await rig.left() == NOTHING


async def test_an_import_that_is_cancelled_leaves_nothing(rig: Rig) -> None:
    data = named(small(), "app:1")

    async def slow() -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]
        await anyio.sleep(60)

    with anyio.move_on_after(0.5) as scope:
        await rig.archiver.import_archive(SCOPE, slow(), "app")
    assert scope.cancelled_caught
    assert await rig.left() == NOTHING


async def test_an_export_is_the_same_each_time_and_keeps_every_digest(rig: Rig, tmp_path: Path) -> None:
    image = small()
    await take(rig, named(image, "app:1"))
    first, second = await give(rig, "docker.io/library/app:1"), await give(rig, "app:1")
    assert first == second
    async with open_rig(tmp_path / "other") as other:
        [again] = await take(other, first)
        assert again.target.digest == image.digest
        assert await other.digests() == set(image.blobs)
        assert await give(other, "app:1") == first


async def test_an_export_is_an_oci_layout_and_a_docker_archive(rig: Rig) -> None:
    image = small()
    await take(rig, named(image, "app:1"))
    with tarfile.open(fileobj=io.BytesIO(await give(rig, "app:1"))) as tar:
        files = {member.name: tar.extractfile(member) for member in tar.getmembers() if member.isfile()}
        read = {name: file.read() for name, file in files.items() if file}
    index = json.loads(read["index.json"])
    [entry] = index["manifests"]
    assert entry["digest"] == image.digest
    assert entry["annotations"] == {
        "io.containerd.image.name": "docker.io/library/app:1",
        "org.opencontainers.image.ref.name": "1",
    }
    assert json.loads(read["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    config = image.document()["config"]["digest"]
    assert json.loads(read["manifest.json"]) == [
        {
            "Config": f"blobs/{config.replace(':', '/')}",
            "RepoTags": ["docker.io/library/app:1"],
            "Layers": [f"blobs/{layer.replace(':', '/')}" for layer in image.layers],
        }
    ]
    for name, data in read.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
async def test_skopeo_reads_what_we_export_and_we_read_what_it_writes(
    rig: Rig, tmp_path: Path, transport: str
) -> None:
    image = small()
    await take(rig, named(image, "app:1"))
    ours = tmp_path / "ours.tar"
    ours.write_bytes(await give(rig, "app:1"))
    theirs = f"{transport}:{tmp_path / 'theirs.tar'}:copied:1"
    with anyio.fail_after(30):
        await anyio.run_process(["skopeo", "copy", f"{transport}:{ours}", theirs])
    [copied] = await take(rig, (tmp_path / "theirs.tar").read_bytes(), "copied:1")
    assert copied.name == "docker.io/library/copied:1"
    _, diff_ids, _ = await rig.stored.image_config(SCOPE, copied.target)
    config = image.document(image.document()["config"]["digest"])
    assert list(diff_ids) == config["rootfs"]["diff_ids"]


async def test_export_of_one_platform_and_of_all_that_is_here(rig: Rig) -> None:
    mine, other = small("mine"), make_image([text_layer("o", "o")], architecture="s390x")
    index = make_index({f"linux/{ARCHITECTURE}": mine, "linux/s390x": other})
    await take(rig, named(index, "app:1"))
    assert blobs_of(await give(rig, "app:1")) == set(index.blobs)
    assert blobs_of(await give(rig, "app:1", platform=Platform("linux", "s390x"))) == set(other.blobs)
    with pytest.raises(NotFound, match="nothing here for linux/riscv64"):
        await give(rig, "app:1", platform=Platform("linux", "riscv64"))
    await take(rig, named(other, "lone:1"))
    assert blobs_of(await give(rig, "lone:1", platform=Platform("linux", "s390x"))) == set(other.blobs)
    with pytest.raises(NotFound, match="is for linux/s390x, not for linux/riscv64"):
        await give(rig, "lone:1", platform=Platform("linux", "riscv64"))


async def test_an_index_of_which_a_part_is_missing(rig: Rig) -> None:
    mine, other = small("here"), make_image([text_layer("o", "gone")], architecture="s390x")
    index = make_index({f"linux/{ARCHITECTURE}": mine, "linux/s390x": other})
    await take(rig, named(index, "app:1"))
    await rig.store.content.delete(SCOPE, other.layers[0])
    name = "docker.io/library/app:1"
    lacking = other.layers[0]

    async def written(**options: Any) -> set[str]:
        pieces = rig.archiver.export_archive(SCOPE, [name], options=ExportOptions(**options))
        return blobs_of(b"".join([piece async for piece in pieces]))

    assert await written() >= {index.digest, *mine.blobs}
    assert other.digest not in await written()
    with pytest.raises(NotFound, match="not all here"):
        await written(complete=True)
    assert await written(skip_missing=True) == set(index.blobs) - {lacking}


def blobs_of(data: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = [name for name in tar.getnames() if name.startswith("blobs/sha256/")]
    return {f"sha256:{name.rpartition('/')[2]}" for name in names}


async def test_several_images_in_one_archive_share_their_layers(rig: Rig, tmp_path: Path) -> None:
    image = small()
    await take(rig, named(image, "a:1"))
    await take(rig, named(image, "b:1"))
    data = await give(rig, "a:1", "b:1", "a:1")
    async with open_rig(tmp_path / "other") as other:
        assert [each.name for each in await take(other, data)] == [
            "docker.io/library/a:1",
            "docker.io/library/b:1",
        ]


async def test_an_export_of_what_is_not_here_fails_before_its_first_byte(rig: Rig) -> None:
    with pytest.raises(NotFound, match="nosuch"):
        await give(rig, "nosuch")
    with pytest.raises(InvalidArgument):
        await give(rig)
    image = small()
    [taken] = await take(rig, named(image, "app:1"), unpack=False)
    await rig.store.content.delete(SCOPE, image.layers[0])
    with pytest.raises(NotFound, match="is not all here"):
        await give(rig, taken.name)


TREE = [File("bin/", None, 0o755), File("bin/app", b"#!/bin/true", 0o755), File("link", "bin/app")]


async def build(rig: Rig, tar: bytes, name: str = "built", **options: Any) -> Image:
    return await rig.builder.build_image(SCOPE, chunks(tar), name, **options)


async def test_a_tree_becomes_an_image_of_one_layer(rig: Rig) -> None:
    config = ImageConfig(
        Platform("", ""), entrypoint=("/bin/app",), env=("A=b",), user="1000", volumes=("/data",)
    )
    built = await build(rig, tar_of(TREE), config=config)
    assert built.name == "docker.io/library/built:latest"
    read, diff_ids, manifest = await rig.stored.image_config(SCOPE, built.target)
    assert (read.entrypoint, read.env, read.user, read.volumes) == (
        ("/bin/app",),
        ("A=b",),
        "1000",
        ("/data",),
    )
    assert read.platform.architecture == ARCHITECTURE
    assert [layer.media_type for layer in manifest.layers] == [manifests.OCI_LAYER_GZIP]
    chain = await rig.unpacker.unpack(SCOPE, built.target)
    [mount] = await rig.store.snapshots.for_name("vfs").view(SCOPE, "look", chain)
    assert await anyio.Path(mount.source, "bin/app").read_text() == "#!/bin/true"
    assert chain == diff_ids[0]
    left = await rig.left()
    assert (len(left["content"]), left["leases"], left["ingests"]) == (3, [], [])


async def test_the_same_tree_has_the_same_digest(rig: Rig) -> None:
    noise = random.Random(1).randbytes(1 << 20)
    tar = tar_of([*TREE, File("noise", noise * 3)])
    variants = [
        (tar, 10_000),
        (tar, 1 << 20),
        (tar, 777),
        (tar + bytes(30_720), 4096),
        (gzip.compress(tar), 4096),
    ]
    targets = {
        (await rig.builder.build_image(SCOPE, chunks(data, size), f"n{number}")).target.digest
        for number, (data, size) in enumerate(variants)
    }
    assert len(targets) == 1
    assert (await build(rig, tar_of(TREE))).target.digest not in targets


async def test_an_empty_tree_and_one_of_many_megabytes(rig: Rig) -> None:
    await build(rig, tar_of([]), name="empty")
    big = bytes(range(256)) * (12 << 10)
    built = await build(rig, tar_of([File("big", big * 2)]), name="big")
    chain = await rig.unpacker.unpack(SCOPE, built.target)
    [mount] = await rig.store.snapshots.for_name("vfs").view(SCOPE, "look", chain)
    assert await anyio.Path(mount.source, "big").read_bytes() == big * 2


@pytest.mark.parametrize("tar", [b"", b"no tar" * 200, truncated(tar_of(TREE))[:1600]])
async def test_what_is_no_tar_is_not_built(rig: Rig, tar: bytes) -> None:
    with pytest.raises(InvalidArgument):
        await build(rig, tar)
    assert await rig.left() == NOTHING


@pytest.mark.parametrize("name", ["Upper", "", "app@sha256:" + "a" * 64])
async def test_a_malformed_name_is_refused_before_anything_is_read(rig: Rig, name: str) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("it was read")
        yield b""

    with pytest.raises(OrlopError) as refused:
        await rig.builder.build_image(SCOPE, never(), name)
    assert refused.value.reason == "MALFORMED_REFERENCE"


async def test_a_built_image_goes_out_and_comes_back(rig: Rig, tmp_path: Path) -> None:
    built = await build(rig, tar_of(TREE))
    async with open_rig(tmp_path / "other") as other:
        [again] = await take(other, await give(rig, built.name))
    assert again.target.digest == built.target.digest
    assert parse_reference(again.name).familiar == "built:latest"
