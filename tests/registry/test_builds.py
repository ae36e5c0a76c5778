"""Images that are built of a tree."""

from __future__ import annotations

import gzip
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlopd.core import manifests
from orlopd.core.manifests import ImageConfig
from orlopd.core.references import parse_reference
from orlopd.plugin.errors import InvalidArgument, OrlopError
from orlopd.plugin.values import Image, Platform
from tests.registry.archiving import chunks, give, take, truncated
from tests.registry.conftest import NOTHING, SCOPE, Rig, open_rig
from tests.support.images import (
    ARCHITECTURE,
    File,
    tar_of,
)

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
