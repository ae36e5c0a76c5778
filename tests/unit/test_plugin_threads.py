"""Threads of one's own: what is handed over is done, once, and whoever is cancelled waits for it."""

from __future__ import annotations

import asyncio
import threading
import time

import anyio
import pytest

from orlopd.plugin.threads import Threads

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_results_and_errors_come_back_from_another_thread() -> None:
    threads = Threads(2)
    assert await threads.run(threading.get_ident) != threading.get_ident()
    with pytest.raises(ValueError, match="what"):
        await threads.run(lambda: int("what"))
    await threads.aclose()


async def test_no_more_than_so_many_run_at_once_and_one_is_enough_for_one_after_the_other() -> None:
    threads = Threads(3)
    running, most = 0, 0
    seen: set[int] = set()

    def job() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        seen.add(threading.get_ident())
        time.sleep(0.02)
        running -= 1

    for _ in range(5):
        await threads.run(job)
    assert (most, len(seen)) == (1, 1)
    async with anyio.create_task_group() as group:
        for _ in range(12):
            group.start_soon(threads.run, job)
    assert (most, len(seen)) == (3, 3)
    await threads.aclose()


@pytest.mark.parametrize("how", ["scope", "task", "task twice"])
async def test_who_is_cancelled_waits_for_the_job_and_stops_after_it(how: str) -> None:
    threads = Threads(1)
    begun, release = threading.Event(), threading.Event()
    ended: list[str] = []

    def job() -> str:
        begun.set()
        release.wait(10)
        return "done"

    scope = anyio.CancelScope()

    async def caller() -> None:
        with scope:
            ended.append(await threads.run(job))
            await anyio.sleep_forever()
        ended.append("scope")

    task = asyncio.create_task(caller())
    await anyio.to_thread.run_sync(begun.wait)
    for _ in range(2 if how == "task twice" else 1):
        (scope if how == "scope" else task).cancel()
        await anyio.sleep(0.01)
    assert ended == []
    release.set()
    with anyio.fail_after(30):
        await asyncio.wait([task])
    assert ended == ["done", *(["scope"] if how == "scope" else [])]
    assert task.cancelled() is (how != "scope")
    assert await threads.run(lambda: 7) == 7
    await threads.aclose()


async def test_one_that_is_cancelled_before_it_is_handed_over_is_not_run() -> None:
    threads, ran = Threads(1), []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await threads.run(lambda: ran.append(1))
    assert scope.cancelled_caught
    assert ran == []
    await threads.aclose()


async def test_closing_waits_for_what_was_given() -> None:
    threads, ran = Threads(1), []
    async with anyio.create_task_group() as group:
        group.start_soon(threads.run, lambda: (time.sleep(0.1), ran.append(1)))
        await anyio.sleep(0.02)
        await threads.aclose()
        assert ran == [1]
    await threads.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await threads.run(lambda: 7)
