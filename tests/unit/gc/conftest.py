"""A store to collect in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orlopd.core.store import Store
from tests.support.store import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def store(world: World) -> AsyncIterator[Store]:
    async with world.open() as store:
        yield store
