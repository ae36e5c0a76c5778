"""Whose turn it is: the longest work goes first, and nobody is passed for ever."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from orlop_plugins.tar.differ import fed
from orlop_plugins.tar.jobs import ApplyJob, Outcome
from orlop_plugins.tar.limits import Limits
from orlop_plugins.tar.pool import WorkerPool
from orlop_plugins.tar.turns import Turns
from orlopd.testing.blobs import MemoryBlob

pytestmark = pytest.mark.anyio


async def order(places: int, *weights: int) -> list[int]:
    """In which order so many begin who all wait already, behind one who had the place."""
    turns, begun, ends = Turns(places), list[int](), anyio.Event()

    async def holder() -> None:
        async with turns.turn(0):
            await ends.wait()

    async def one(weight: int) -> None:
        async with turns.turn(weight):
            begun.append(weight)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for _ in range(places):
            group.start_soon(holder)
        await anyio.wait_all_tasks_blocked()
        for weight in weights:
            group.start_soon(one, weight)
            await anyio.wait_all_tasks_blocked()
        assert begun == []
        ends.set()
    return begun


async def test_the_longest_work_goes_first() -> None:
    assert await order(1, 3, 9, 1, 7) == [9, 7, 3, 1]


async def test_equals_go_as_they_came() -> None:
    turns, begun = Turns(1), list[str]()

    async def one(name: str) -> None:
        async with turns.turn(5):
            begun.append(name)

    async with anyio.create_task_group() as group, turns.turn(0):
        for name in "abc":
            group.start_soon(one, name)
            await anyio.wait_all_tasks_blocked()
    assert begun == ["a", "b", "c"]


async def test_nobody_is_passed_by_more_than_a_few() -> None:
    small, *large = 1, *range(100, 120)
    begun = await order(1, small, *large)
    assert begun.index(small) == 8


async def test_whoever_gives_up_takes_no_place_along() -> None:
    turns = Turns(1)
    async with anyio.create_task_group() as group, turns.turn(0):
        for _ in range(3):
            group.start_soon(_use, turns)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    with anyio.fail_after(30):
        await _use(turns)


async def test_whoever_gives_up_at_its_turn_passes_it_on() -> None:
    turns, done = Turns(1), anyio.Event()

    async def last() -> None:
        await _use(turns)
        done.set()

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                async with turns.turn(0):
                    inner.start_soon(_use, turns, 9)
                    await anyio.wait_all_tasks_blocked()
                    group.start_soon(last)
                    await anyio.wait_all_tasks_blocked()
                scope.cancel()  # its turn has come, and it has not noticed yet
        with anyio.fail_after(30):
            await done.wait()


async def _use(turns: Turns, weight: int = 1) -> None:
    async with turns.turn(weight):
        await anyio.lowlevel.checkpoint()


async def test_a_layer_has_as_much_to_do_as_it_has_bytes() -> None:
    asked: list[int] = []

    class Pool(WorkerPool):
        async def run(self, job: Any, fds: Any = (), *, weight: int = 0, **_: Any) -> Outcome:
            asked.append(weight)
            return Outcome("", 0)

    job = ApplyJob((), "", "", "", True, 0, Limits())
    for size in (1, 5000):
        await fed(Pool(1, logging.getLogger("test")), job, MemoryBlob(bytes(size)))
    assert asked == [1, 5000]
