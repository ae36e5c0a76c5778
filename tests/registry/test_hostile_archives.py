"""Archives that are not what they say, or end too early: one error, and nothing is kept."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from orlopd.plugin.errors import InvalidArgument
from tests.registry.archiving import named, small, take, truncated
from tests.registry.conftest import NOTHING, SCOPE, Rig
from tests.support.images import (
    INDEX,
    MANIFEST,
    File,
    SmallImage,
    digest_of,
    make_image,
    tar_of,
    text_layer,
)


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
