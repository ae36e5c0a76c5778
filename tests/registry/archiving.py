"""Archives in and out in a few words, for tests of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from typing import Any

from orlopd.plugin.values import Image, Platform
from tests.registry.conftest import SCOPE, Rig
from tests.support.images import (
    SmallImage,
    layout_tar,
    make_image,
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


def blobs_of(data: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = [name for name in tar.getnames() if name.startswith("blobs/sha256/")]
    return {f"sha256:{name.rpartition('/')[2]}" for name in names}


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]
