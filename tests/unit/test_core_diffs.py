"""Which differ gets a layer."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from orlopd.core.diffs import Diffs, general
from orlopd.core.scope import Scope
from orlopd.plugin.errors import Unimplemented
from orlopd.plugin.values import Descriptor, Mount, sha256

pytestmark = pytest.mark.anyio

HERE, THERE = (Mount("bind", "/here"),), (Mount("bind", "/there"),)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class General:
    """For one media type."""

    def __init__(self, media_type: str) -> None:
        self.media_type = media_type

    def handles(self, media_type: str) -> bool:
        return media_type == self.media_type

    async def apply(self, layer: Any, blob: Any, mounts: Any, *, progress: Any = None) -> Any:
        return Descriptor(f"applied by {type(self).__name__} for {self.media_type}", layer.digest, layer.size)

    async def diff(self, lower: Any, upper: Any, media_type: str, sink: Any) -> str:
        raise NotImplementedError

    async def unpack_tar(self, blob: Any, mounts: Any, *, uids: str = "", gids: str = "") -> int:
        raise NotImplementedError


class Particular(General):
    """And for one place."""

    async def suits(self, mounts: Sequence[Mount]) -> bool:
        return mounts == HERE


async def applied(diffs: Diffs, media_type: str, mounts: Sequence[Mount]) -> str:
    """Who applied a layer."""
    blob: Any = contextlib.nullcontext()
    layer = Descriptor(media_type, sha256(b""), 0)
    return (await diffs.apply(Scope("test"), layer, mounts, arriving=blob)).media_type


async def test_a_differ_for_particular_mounts_gets_the_layers_that_go_there() -> None:
    diffs = Diffs(None, [General("tar"), Particular("tar"), General("other")])  # type: ignore[arg-type] # unused
    assert await applied(diffs, "tar", HERE) == "applied by Particular for tar"
    assert await applied(diffs, "tar", THERE) == "applied by General for tar"
    assert await applied(diffs, "other", HERE) == "applied by General for other"
    with pytest.raises(Unimplemented):
        await applied(diffs, "text", HERE)


async def test_it_is_asked_for_nothing_else() -> None:
    first, particular = General("tar"), Particular("tar")
    differs = [particular, first]
    assert Diffs(None, differs).for_media_type("tar") is first  # type: ignore[arg-type]
    assert list(general(differs)) == [first]
    with pytest.raises(Unimplemented):
        Diffs(None, [particular]).for_media_type("tar")  # type: ignore[arg-type]
