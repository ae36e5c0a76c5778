"""Work that is done to its end though whoever asked for it has gone.

A client that disconnects cancels its call wherever that is, and no cancel scope of ours shields from
it. What must not stop half way therefore runs in a task of the engine's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup

from orlopd.plugin.errors import DeadlineExceeded

T = TypeVar("T")

_LONGEST = 120.0  # seconds for which a stopping daemon waits for such work


class Finisher:
    """Runs work in a task group that belongs to no call."""

    def __init__(self) -> None:
        self._group: TaskGroup | None = None

    def serve(self, group: TaskGroup) -> None:
        """From now on run work in ``group``."""
        self._group = group

    async def finish(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work`` and return or raise what it does; it goes on if the caller is cancelled."""
        if self._group is None:
            return await work()
        done = anyio.Event()
        result: list[T] = []
        failure: list[BaseException] = []

        async def run() -> None:
            try:
                with anyio.move_on_after(_LONGEST, shield=True):
                    result.append(await work())
            except Exception as error:
                failure.append(error)
            finally:
                done.set()

        self._group.start_soon(run)
        await done.wait()
        if failure:
            raise failure[0]
        if not result:
            raise DeadlineExceeded(f"not done within {_LONGEST:.0f} s")
        return result[0]
