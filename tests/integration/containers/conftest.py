"""A client of the engine that leaves no container behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.daemon import Daemon, eventually


@pytest.fixture
async def client(daemon: Daemon, image: str) -> AsyncIterator[Any]:
    """A client in a namespace that must be empty of containers, tasks and snapshots of theirs afterwards."""
    async with daemon.connect() as connected:
        yield connected
        for container in await connected.containers.list():
            await connected.containers.remove(container.id, force=True)
    assert not daemon.ctr("tasks", "ls", "-q").stdout
    if "Active" in daemon.must(daemon.ctr("snapshots", "ls")):
        # What another client prepared goes with the next collection, which this waits for.
        daemon.must(daemon.ctr("leases", "create", "--id", "collect"))
        daemon.must(daemon.ctr("leases", "delete", "--sync", "collect"))
        assert "Active" not in daemon.must(daemon.ctr("snapshots", "ls"))
    left = eventually(
        lambda: [each.name for each in (daemon.root / "containers").glob(f"{daemon.namespace}/*")],
        lambda found: not found,
        20,
    )
    assert left == []
