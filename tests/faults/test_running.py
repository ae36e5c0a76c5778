"""The daemon, its fork server, shims and containers killed at random points of what clients do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.images import save_archive

from .running import FAULTS, WORK, Running
from .world import FULL, seed

ROUNDS = int(os.environ.get("ORLOP_ROUNDS") or (500 if FULL else 20))
"""The proof may be given in pieces, each with a seed of its own."""


@pytest.mark.timeout(7200 if FULL else 300)
async def test_containers_live_and_ends_are_known_whatever_is_killed(tmp_path: Path) -> None:
    archive = save_archive(tmp_path / "probe.tar", "docker.io/library/probe:latest")
    with Daemon() as daemon:
        daemon.must(daemon.orlop("import", archive))
        running = Running(daemon, seed())
        for number in range(ROUNDS):
            found = await running.round(number)
            assert found == [], "\n".join(found)
            if number % 50 == 49:
                print(f"{dict(running.tally)}", flush=True)  # noqa: T201
        assert await running.finish() == []
        print(f"{dict(running.tally)}")  # noqa: T201
        assert running.tally["rounds"] == ROUNDS
        idle = [each for each in (*(f"{fault} killed" for fault in FAULTS), *WORK) if not running.tally[each]]
        assert idle == [], "that never came about"
