"""Starts containers again that have ended, as their policies say."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
from anyio import to_thread

from orlopd.core.scope import Scope
from orlopd.plugin.errors import NotFound, OrlopError
from orlopd.plugin.runtime import TaskState

from .context import Context
from .find import Finder
from .policy import (
    COUNT_LABEL,
    STOPPED_LABEL,
    When,
    count_of,
    delay_before,
    policy_of,
    ran_well,
    set_labels,
)
from .processes import Processes
from .record import name_of

log = logging.getLogger("orlopd.engine")


class Restarts:
    """Starts containers again. What it does is cancelled with the supervisor that calls it."""

    def __init__(
        self,
        context: Context,
        finder: Finder,
        processes: Processes,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._context = context
        self._finder = finder
        self._processes = processes
        self._sleep = sleep
        self._under_way: set[tuple[str, str]] = set()
        self._again: set[tuple[str, str]] = set()

    async def consider(self, scope: Scope, id: str, *, starting: bool = False) -> None:
        """Start a container that has ended again, if its policy wants it, after a while that doubles."""
        key = (scope.namespace, id)
        if key in self._under_way:
            self._again.add(key)  # it may have ended while its start was still being noted
            return
        self._under_way.add(key)
        try:
            ended = True
            while await self._once(scope, id, starting=starting, ended=ended) or key in self._again:
                ended = key in self._again
                starting = False  # an attempt that failed is followed by a pause, and heeds who stops it
                self._again.discard(key)
        except NotFound:
            pass  # removed
        finally:
            self._under_way.discard(key)
            self._again.discard(key)

    async def _once(self, scope: Scope, id: str, *, starting: bool, ended: bool) -> bool:
        """Whether to look again: it was to be started, and could not be.

        :param ended: it has run since the last attempt. A run that went well begins the count anew, but not
            for every attempt after it
        """
        if ended:
            await self._judge(scope, id)
        if not await self._is_wanted(scope, id, starting=starting):
            return False
        count = count_of(await self._context.containers.get(scope, id))
        if not starting:
            await self._sleep(delay_before(count))
        if not await self._is_wanted(scope, id, starting=starting):
            return False  # somebody was faster, or does not want it any more
        container = await self._context.containers.get(scope, id)
        await set_labels(self._context, scope, container, {COUNT_LABEL: str(count + 1)})
        try:
            async with self._processes.start(scope, id):
                log.info("container %s was started again", name_of(container))
                return False
        except NotFound:
            raise
        except OrlopError as error:
            log.warning("container %s could not be started again: %s", name_of(container), error)
            return True

    async def _judge(self, scope: Scope, id: str) -> None:
        """Begin to count anew after a run that went well."""
        container = await self._context.containers.get(scope, id)
        if not count_of(container):
            return
        task = await self._finder.task(scope, container)
        status = await task.status() if task else None
        life = await to_thread.run_sync(self._context.folders.life, scope.namespace, id)
        end = status.exit if status is not None else life.exit
        if ran_well(life.started_at, end.at if end else None):
            await set_labels(self._context, scope, container, {COUNT_LABEL: "0"})

    async def _is_wanted(self, scope: Scope, id: str, *, starting: bool) -> bool:
        container = await self._context.containers.get(scope, id)
        policy = policy_of(container)
        if policy.when is When.NO:
            return False
        task = await self._finder.task(scope, container)
        status = await task.status() if task else None
        life = await to_thread.run_sync(self._context.folders.life, scope.namespace, id)
        if status is None and life.started_at is None:
            return False  # it was never started
        if status is not None and status.state is not TaskState.STOPPED:
            return False
        ended = status.exit if status is not None else life.exit
        return policy.wants(
            failed=ended is None or ended.code != 0,
            stopped=container.labels.get(STOPPED_LABEL) == "true",
            count=count_of(container),
            starting=starting,
        )
