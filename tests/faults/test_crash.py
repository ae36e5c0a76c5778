"""The daemon killed at random points: SIGKILL, and power cuts, which also show what was not synced."""

from __future__ import annotations

import pytest

from tests.support.daemon import Daemon

from .clients import Archive
from .world import FULL, World, powered, run, seed

KILLS = 250 if FULL else 6
CUTS = 110 if FULL else 4


@pytest.mark.timeout(3600 if FULL else 300)
def test_sigkill_loses_and_leaves_nothing(archives: list[Archive]) -> None:
    with Daemon() as daemon:
        world = World(daemon, seed(), archives)
        assert run(world, KILLS) == []
        assert world.tally.points == KILLS


@pytest.mark.timeout(3600 if FULL else 300)
def test_power_cuts_lose_nothing_that_was_acknowledged(archives: list[Archive]) -> None:
    with powered(seed(), archives) as world:
        assert run(world, CUTS) == []
        assert world.tally.points == CUTS


FORGETFUL = """
import ctypes, os
os.fsync = lambda fd: None
"""


@pytest.mark.timeout(300)
def test_a_missing_fsync_would_be_seen(archives: list[Archive]) -> None:
    with powered(seed(), archives, plugins={"forgetful.py": FORGETFUL}) as world:
        found = run(world, 25)
    assert any("other bytes" in each or "cannot be read" in each for each in found), found
