"""Import: we read what others write, and keep it under the names they gave."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from orlopd.core import manifests
from orlopd.plugin.errors import InvalidArgument, PermissionDenied
from orlopd.plugin.values import chain_id
from tests.registry.archiving import named, small, take
from tests.registry.conftest import NOTHING, SCOPE, Rig
from tests.support.images import (
    ARCHITECTURE,
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
