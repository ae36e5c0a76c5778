"""What a part is given to live on: its folders, its logger, its background tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from contextvars import Context as Variables
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
from anyio.abc import TaskGroup, TaskStatus

from orlopd.plugin.provider import Kind

T = TypeVar("T")


class GuardedTasks(TaskGroup):
    """A task group whose tasks fail alone: what one raises is logged, the others and the daemon go on."""

    def __init__(self, log: logging.Logger) -> None:
        self._group = anyio.create_task_group()
        self._log = log
        self.cancel_scope = self._group.cancel_scope

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            # The tasks raise nothing, so the error needs no group around it.
            self._group.cancel_scope.cancel()
            await self._group.__aexit__(None, None, None)
            return False
        return bool(await self._group.__aexit__(kind, error, trace))

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: object = None, context: Variables | None = None
    ) -> Any:
        return self._group.create_task(self._guard(coro, name), name=name, context=context)

    async def _guard(self, coro: Coroutine[Any, Any, Any], name: object) -> Any:
        try:
            return await coro
        except Exception:
            self._log.exception("background task %s failed", name or coro.__qualname__)

    async def start(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        func: Callable[..., Coroutine[Any, Any, Any]],
        *args: object,
        name: object = None,
        return_handle: bool = False,
    ) -> Any:
        async def guarded(*, task_status: TaskStatus[Any]) -> Any:
            status = _Status(task_status)
            try:
                return await func(*args, task_status=status)
            except Exception:
                if not status.is_started:
                    raise
                self._log.exception("background task %s failed", name or func.__qualname__)

        label = name or getattr(func, "__qualname__", None)
        return await self._group.start(guarded, name=label, return_handle=return_handle)  # pyright: ignore[reportCallIssue, reportArgumentType]


class _Status(TaskStatus[Any]):
    """Remembers whether the task has said that it started."""

    def __init__(self, inner: TaskStatus[Any]) -> None:
        self._inner = inner
        self.is_started = False

    def started(self, value: Any = None) -> None:
        self.is_started = True
        self._inner.started(value)


@dataclass(frozen=True, slots=True)
class PartContext:
    """The :class:`orlopd.plugin.Context` of one part."""

    config: Any
    root: Path
    state: Path
    log: logging.Logger
    tasks: TaskGroup
    find: Callable[[Kind[Any], str], Any]

    def get(self, kind: Kind[T], id: str = "") -> T:
        return self.find(kind, id)
