"""Export: the same each time, and what others read."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlopd.core.export import ExportOptions
from orlopd.plugin.errors import InvalidArgument, NotFound
from orlopd.plugin.values import Platform
from tests.registry.archiving import blobs_of, give, named, small, take
from tests.registry.conftest import SCOPE, Rig, open_rig
from tests.support.images import (
    ARCHITECTURE,
    make_image,
    make_index,
    text_layer,
)


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
