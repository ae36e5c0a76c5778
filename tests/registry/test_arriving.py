"""Layers are unpacked while they come."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from orlopd.plugin.errors import DataLoss
from tests.support.daemon import eventually
from tests.support.faulty import FaultyRegistry, Handler, faulty_registry
from tests.support.images import File, SmallImage, make_image, tar_of

from .conftest import NOTHING, open_rig

pytestmark = pytest.mark.anyio

SIZE = 2 << 20


@pytest.fixture
def image() -> SmallImage:
    noise = random.Random(4)
    return make_image([tar_of([File("first", noise.randbytes(SIZE)), File("second", noise.randbytes(SIZE))])])


def layers(root: Path) -> list[Path]:
    """The layers that there are files of."""
    return list(root.glob("vfs/*/*/fs"))


def halfway(registry: FaultyRegistry, root: Path, found: list[Path], rest: bytes | None = None) -> None:
    """Send the last quarter of the layer, or something else, only once the first file is unpacked."""
    data = registry.served.blobs[registry.served.layers[0]]
    start = len(data) - len(data) // 4

    def unpacked() -> list[Path]:
        return [path for path in root.glob("vfs/snapshots/*/fs/first") if path.stat().st_size == SIZE]

    def slowly(handler: Handler) -> None:
        handler.cut(data, start)
        found.extend(eventually(unpacked, bool, 18))
        handler.wfile.write(data[start:] if rest is None else rest)

    registry.on(f"GET .*/blobs/{registry.served.layers[0]}", slowly, times=1)


async def test_files_are_there_before_the_layer_is(tmp_path: Path, image: SmallImage) -> None:
    found: list[Path] = []
    with faulty_registry(image) as registry:
        async with open_rig(tmp_path) as rig:
            halfway(registry, tmp_path, found)
            await rig.pull(registry.reference)
            assert len(found) == 1
            assert found[0].with_name("second").stat().st_size == SIZE


async def test_a_layer_that_ends_otherwise_leaves_nothing(tmp_path: Path, image: SmallImage) -> None:
    found: list[Path] = []
    with faulty_registry(image) as registry:
        async with open_rig(tmp_path) as rig:
            size = len(image.blobs[image.layers[0]])
            halfway(registry, tmp_path, found, bytes(size // 4))
            with pytest.raises(DataLoss, match="content does not match"):
                await rig.pull(registry.reference)
            assert len(found) == 1
            assert await rig.left_but_ingests() == NOTHING
            assert layers(tmp_path) == []
            await rig.pull(registry.reference)
