"""Which differ gets a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from orlopd.core.diffs import Diffs, general
from orlopd.plugin.errors import Unimplemented
from orlopd.plugin.values import Mount

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
        raise NotImplementedError

    async def diff(self, lower: Any, upper: Any, media_type: str, sink: Any) -> str:
        raise NotImplementedError

    async def unpack_tar(self, blob: Any, mounts: Any) -> int:
        raise NotImplementedError


class Particular(General):
    """And for one place."""

    async def suits(self, mounts: Sequence[Mount]) -> bool:
        return mounts == HERE


async def test_a_differ_for_particular_mounts_gets_the_layers_that_go_there() -> None:
    first, particular, other = General("tar"), Particular("tar"), General("other")
    differs = [first, particular, other]
    diffs = Diffs(None, differs)  # type: ignore[arg-type] # no content is looked at
    assert await diffs.for_mounts("tar", HERE) is particular
    assert await diffs.for_mounts("tar", THERE) is first
    assert await diffs.for_mounts("other", HERE) is other
    with pytest.raises(Unimplemented):
        await diffs.for_mounts("text", HERE)


async def test_it_is_asked_for_nothing_else() -> None:
    first, particular = General("tar"), Particular("tar")
    differs = [particular, first]
    assert Diffs(None, differs).for_media_type("tar") is first  # type: ignore[arg-type]
    assert list(general(differs)) == [first]
    with pytest.raises(Unimplemented):
        Diffs(None, [particular]).for_media_type("tar")  # type: ignore[arg-type]
