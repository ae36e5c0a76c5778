"""Restart policies: how long a container waits for its next start, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orlopd.core.engine.model import Life
from orlopd.core.engine.policy import (
    COUNT_LABEL,
    HEALTHY,
    POLICY_LABEL,
    STOPPED_LABEL,
    RestartPolicy,
    When,
    count_of,
    delay_before,
)
from orlopd.core.engine.restart import Restarts
from orlopd.core.scope import Scope
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument
from orlopd.plugin.runtime import Exit
from orlopd.plugin.values import Container

SCOPE = Scope("ns")
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """A container, whose runs take as long as the test says, or do not come about at all (None)."""

    def __init__(self, policy: str, runs: Sequence[float | None]) -> None:
        labels = {POLICY_LABEL: policy}
        self.container = Container("c", "runc", labels=labels)
        self.now = BEGIN
        self.life = Life()
        self.runs = list(runs)
        self.slept: list[float] = []
        self.starts = 0
        folders = SimpleNamespace(life=lambda *_: self.life)
        context: Any = SimpleNamespace(containers=self, folders=folders)
        finder: Any = SimpleNamespace(task=self._none)
        self.restarts = Restarts(context, finder, cast("Any", self), self._sleep)
        self.run(self.runs.pop(0) or 0)

    def run(self, seconds: float) -> None:
        began, self.now = self.now, self.now + timedelta(seconds=seconds)
        self.life = Life(began, Exit(1, self.now))

    async def until_settled(self) -> list[float]:
        """Play on until nobody wants the container any more; the delays that there were."""
        while True:
            before = self.starts
            await self.restarts.consider(SCOPE, "c")
            if self.starts == before:
                return self.slept

    # What the restarts need of the daemon.

    async def get(self, scope: Scope, id: str) -> Container:
        return self.container

    async def update(self, scope: Scope, changed: Container, paths: Sequence[str]) -> Container:
        self.container = changed
        return changed

    async def _none(self, *_: Any) -> None:
        return None

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)

    @asynccontextmanager
    async def start(self, scope: Scope, id: str) -> AsyncIterator[None]:
        if not self.runs:
            self.container = replace(self.container, labels={**self.container.labels, STOPPED_LABEL: "true"})
            raise FailedPrecondition("the test is over")
        seconds = self.runs.pop(0)
        if seconds is None:
            raise FailedPrecondition("no such image")
        self.starts += 1
        self.run(seconds)
        yield


def test_the_delay_doubles_up_to_a_minute() -> None:
    delays = [delay_before(count) for count in range(14)]
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays == sorted(delays)
    assert delays[9] == pytest.approx(51.2)
    assert set(delays[10:]) == {60.0}
    assert delay_before(10**9) == 60.0


async def test_each_failure_in_a_row_waits_longer() -> None:
    delays = await World("always", [0.5] * 14).until_settled()
    assert delays == [delay_before(count) for count in range(14)]


async def test_a_run_that_went_well_begins_anew() -> None:
    delays = await World("always", [0, 0, 0, HEALTHY, 0, HEALTHY - 0.1, 0]).until_settled()
    assert delays == [0.1, 0.2, 0.4, 0.1, 0.2, 0.4, 0.8]


async def test_starts_that_fail_wait_longer_each_time_even_after_a_run_that_went_well() -> None:
    world = World("always", [3600, None, None, None, None, 0])
    assert await world.until_settled() == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]


@pytest.mark.parametrize("first", [0, 3600])
async def test_a_limit_counts_starts_that_failed(first: float) -> None:
    world = World("on-failure:3", [first, None, 0, None, 0, 0])
    await world.until_settled()
    assert world.slept == [0.1, 0.2, 0.4]
    assert count_of(world.container) == 3


@pytest.mark.parametrize("policy", ["always", "unless-stopped"])
async def test_starts_that_fail_when_the_daemon_starts_wait_as_well(policy: str) -> None:
    world = World(policy, [0, None, None, None, 0])
    await world.restarts.consider(SCOPE, "c", starting=True)
    assert (world.slept, world.starts) == ([0.2, 0.4, 0.8], 1)


async def test_who_stops_a_container_that_cannot_be_started_with_the_daemon_is_obeyed() -> None:
    world = World("always", [0, None, None, None])

    async def stop(seconds: float) -> None:
        world.container = replace(world.container, labels={**world.container.labels, STOPPED_LABEL: "true"})

    world.restarts._sleep = stop
    await world.restarts.consider(SCOPE, "c", starting=True)
    assert len(world.runs) == 2


async def test_who_stopped_a_container_while_it_waited_is_obeyed() -> None:
    world = World("always", [0, 0])

    async def stop(seconds: float) -> None:
        world.container = replace(world.container, labels={**world.container.labels, STOPPED_LABEL: "true"})

    world.restarts = Restarts(*_parts(world), stop)
    await world.restarts.consider(SCOPE, "c")
    assert world.starts == 0
    assert COUNT_LABEL not in world.container.labels


def _parts(world: World) -> tuple[Any, Any, Any]:
    return world.restarts._context, world.restarts._finder, world.restarts._processes  # pyright: ignore


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("no", set[tuple[bool, bool, bool]]()),
        (
            "always",
            {(f, s, d) for f in (True, False) for s, d in ((False, False), (False, True), (True, True))},
        ),
        ("unless-stopped", {(f, False, d) for f in (True, False) for d in (True, False)}),
        ("on-failure", {(True, False, d) for d in (True, False)}),
    ],
)
def test_when_a_policy_wants_a_container_to_run(policy: str, wanted: set[tuple[bool, bool, bool]]) -> None:
    parsed = RestartPolicy.parse(policy)
    found = {
        (failed, stopped, starting)
        for failed in (True, False)
        for stopped in (True, False)
        for starting in (True, False)
        if parsed.wants(failed=failed, stopped=stopped, count=7, starting=starting)
    }
    assert found == wanted
    assert str(parsed) == policy


def test_a_policy_is_read_as_it_is_written() -> None:
    assert RestartPolicy.parse("") == RestartPolicy(When.NO)
    assert RestartPolicy.parse("on-failure:5") == RestartPolicy(When.ON_FAILURE, 5)
    for text in ("always:1", "on-failure:", "on-failure:-1", "sometimes", "ON-FAILURE"):
        with pytest.raises(InvalidArgument):
            RestartPolicy.parse(text)
