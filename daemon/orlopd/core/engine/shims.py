"""Looking at shims: what they are, and what they log."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import anyio
from anyio import to_thread

from orlopd.core.kept_task import KeptTask
from orlopd.core.scope import Scope
from orlopd.plugin.errors import NotFound, OrlopError
from orlopd.plugin.shim_info import ShimInfo
from orlopd.plugin.values import Container

from .context import Context
from .find import Finder
from .record import name_of

_PIECE = 64 << 10
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class ShimView:
    """A container and its shim."""

    container: Container
    info: ShimInfo


class Shims:
    """The shims of a namespace."""

    def __init__(self, context: Context, finder: Finder) -> None:
        self._context = context
        self._finder = finder

    async def list(self, scope: Scope) -> Sequence[ShimView]:
        """Those of all containers that have one, by id; one that does not answer is told so."""
        found: list[ShimView] = []
        limit = anyio.CapacityLimiter(_AT_ONCE)

        async def ask(container: Container) -> None:
            async with limit:
                info = await self._info(scope, container)
                if info is not None:
                    found.append(ShimView(container, info))

        async with anyio.create_task_group() as group:
            for container in await self._context.containers.list(scope):
                group.start_soon(ask, container)
        return sorted(found, key=lambda each: each.container.id)

    async def get(self, scope: Scope, reference: str) -> ShimView:
        """That of one container.

        :raises NotFound: there is no such container, or it has no shim
        """
        container = await self._finder.container(scope, reference)
        info = await self._info(scope, container)
        if info is None:
            raise NotFound(
                f"container {name_of(container)} has no shim: it does not run",
                reason="NO_SHIM",
                resource=f"container {name_of(container)}",
            )
        return ShimView(container, info)

    async def log(self, scope: Scope, reference: str) -> AsyncGenerator[bytes]:
        """What a shim has logged, in pieces. :raises NotFound: as get, or it keeps no log"""
        shim = await self.get(scope, reference)
        path = shim.info.log
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC) if path else -1
        except OSError:
            fd = -1
        if fd < 0:
            raise NotFound(
                f"the shim of container {name_of(shim.container)} has logged nothing", reason="NO_SHIM_LOG"
            )
        try:
            left = os.fstat(fd).st_size
            while left > 0 and (piece := await to_thread.run_sync(os.read, fd, min(left, _PIECE))):
                left -= len(piece)
                yield piece
        finally:
            os.close(fd)

    async def _info(self, scope: Scope, container: Container) -> ShimInfo | None:
        try:
            task = await self._context.tasks.get(scope, container.id)
            return await task.shim_info() if isinstance(task, KeptTask) else None
        except NotFound:
            return None
        except OrlopError as error:
            return ShimInfo(problem=error.message)
