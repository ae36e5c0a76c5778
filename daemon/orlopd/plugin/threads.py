"""Threads of one's own, for short blocking jobs that come with every call."""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

T = TypeVar("T")


class Threads:
    """Runs jobs as ``anyio.to_thread.run_sync`` does, for half of what handing them over costs there.

    Jobs know no context variables.

    :param most: how many run at once
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = 0
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()

    async def run(self, fn: Callable[[], T]) -> T:
        """What ``fn`` gives, or raises, in a thread.

        One that has been handed over is waited for, whoever is cancelled; a cancellation comes after it.

        :raises anyio.ClosedResourceError: they have ended
        """
        if self._closed:
            raise anyio.ClosedResourceError
        await anyio.lowlevel.checkpoint_if_cancelled()
        job = _Job(fn, asyncio.get_running_loop(), self._ended)
        if self._free:
            self._free -= 1
        elif len(self._threads) < self._most:
            thread = threading.Thread(target=_work, args=(self._jobs,), name="orlop-worker", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._jobs.put(job)
        try:
            await job.waiter
        except asyncio.CancelledError:
            await _wait_all_the_same(job)
        error, result = job.error, job.result
        if error is None:
            return result
        try:
            raise error
        finally:
            del error, job  # or the error would keep the frame that keeps it

    def _ended(self) -> None:
        self._free += 1

    async def aclose(self) -> None:
        """End the threads when they have done what they were given. May be called twice."""
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._jobs.put(None)
        with anyio.CancelScope(shield=True):
            for thread in self._threads:
                await anyio.to_thread.run_sync(thread.join)


class _Job:
    """A job and who waits for it."""

    __slots__ = ("error", "fn", "is_done", "loop", "result", "then", "waiter")

    def __init__(
        self, fn: Callable[[], Any], loop: asyncio.AbstractEventLoop, then: Callable[[], None]
    ) -> None:
        self.fn = fn
        self.loop = loop
        self.then = then
        self.waiter: asyncio.Future[None] = loop.create_future()
        self.is_done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """In the thread."""
        try:
            self.result = self.fn()
        except BaseException as error:
            self.error = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self.is_done = True
        self.then()
        if not self.waiter.done():
            self.waiter.set_result(None)


def _work(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        del job


async def _wait_all_the_same(job: _Job) -> None:
    """Wait for a job whose waiter was cancelled. A scope that is cancelled says so again by itself; who
    cancelled the task only once is heard afterwards."""
    by_task = anyio.current_effective_deadline() != -math.inf
    with anyio.CancelScope(shield=True):
        while not job.is_done:
            job.waiter = job.loop.create_future()
            try:
                await job.waiter
            except asyncio.CancelledError:
                by_task = True
    task = asyncio.current_task()
    if by_task and task is not None:
        task.uncancel()
        task.cancel()
