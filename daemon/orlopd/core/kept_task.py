"""A task as the core hands it out: the runtime's, with bookkeeping at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import anyio

from orlopd.plugin.runtime import (
    Attachment,
    ExecSpec,
    Exit,
    ProcessEntry,
    ProcessStatus,
    Task,
    TaskEvent,
)
from orlopd.plugin.shim_info import ShimInfo, ShimTask
from orlopd.plugin.values import TypedBytes


class KeptTask:
    """Passes every call on. ``started`` and ``deleted`` are awaited when the main process was."""

    def __init__(
        self,
        task: Task,
        runtime: str,
        deleted: Callable[[KeptTask], Awaitable[None]],
        started: Callable[[KeptTask], Awaitable[None]],
    ) -> None:
        self.runtime = runtime
        self.published = anyio.Event()
        """Set when all that the task did is published."""
        self._task = task
        self._deleted = deleted
        self._started = started

    @property
    def namespace(self) -> str:
        return self._task.namespace

    @property
    def id(self) -> str:
        return self._task.id

    async def start(self, exec_id: str = "") -> int:
        pid = await self._task.start(exec_id)
        if not exec_id:
            with anyio.CancelScope(shield=True):
                await self._started(self)
        return pid

    async def exec(self, spec: ExecSpec) -> None:
        await self._task.exec(spec)

    async def status(self, exec_id: str = "") -> ProcessStatus:
        return await self._task.status(exec_id)

    async def wait(self, exec_id: str = "") -> Exit:
        return await self._task.wait(exec_id)

    async def kill(self, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        await self._task.kill(signal, exec_id, all=all)

    async def delete(self, exec_id: str = "") -> Exit:
        end = await self._task.delete(exec_id)
        if not exec_id:
            with anyio.CancelScope(shield=True):
                await self._deleted(self)
        return end

    async def shim_info(self) -> ShimInfo | None:
        """How its shim is; None where the runtime does not tell."""
        return await self._task.shim_info() if isinstance(self._task, ShimTask) else None

    async def pids(self) -> Sequence[ProcessEntry]:
        return await self._task.pids()

    async def pause(self) -> None:
        await self._task.pause()

    async def resume(self) -> None:
        await self._task.resume()

    async def resize(self, width: int, height: int, exec_id: str = "") -> None:
        await self._task.resize(width, height, exec_id)

    async def close_stdin(self, exec_id: str = "") -> None:
        await self._task.close_stdin(exec_id)

    async def stats(self) -> TypedBytes:
        return await self._task.stats()

    async def update(self, resources: bytes, annotations: Mapping[str, str]) -> None:
        await self._task.update(resources, annotations)

    async def checkpoint(self, path: str, options: TypedBytes | None) -> None:
        await self._task.checkpoint(path, options)

    def attach(
        self, exec_id: str = "", *, stdin: bool = False, scrollback: bool = False
    ) -> AbstractAsyncContextManager[Attachment]:
        return self._task.attach(exec_id, stdin=stdin, scrollback=scrollback)

    def events(self, after: int = 0) -> AsyncIterator[TaskEvent]:
        return self._task.events(after)
