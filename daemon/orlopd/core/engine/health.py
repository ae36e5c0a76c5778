"""Watching whether what runs in containers works: a task for each that has a check, one exec at a time.

What checks said lies in the container's folder, so that a daemon that comes back goes on from there. A check
that was under way when a daemon died is killed by the next one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from orlopd.core.healthcheck import Healthcheck
from orlopd.core.scope import Scope
from orlopd.plugin.errors import NotFound, OrlopError, Unavailable
from orlopd.plugin.runtime import Exit, Output, SendSignal, TaskState
from orlopd.plugin.values import Container, now

from .context import Context
from .find import Finder
from .model import ExecOptions, Health, HealthResult, HealthStatus
from .processes import SIGKILL, Processes, Session
from .record import config_of

log = logging.getLogger("orlopd.engine")

HEALTH_PREFIX = "orlop-health-"
TOPIC = "/containers/health"
_MESSAGE = "orlop.engine.v1.ContainerHealth"
_MOST_OUTPUT = 4096
_KEPT = 5
_AT_ONCE = 16
_GRACE = 10.0  # seconds beyond a check's own timeout in which its process must have been started and ended


class HealthMonitor:
    """The checks of all containers. Each ends with its container's run, and with the group they live in."""

    def __init__(self, context: Context, finder: Finder, processes: Processes) -> None:
        self._context = context
        self._finder = finder
        self._processes = processes
        self._watched: dict[tuple[str, str], anyio.CancelScope] = {}
        self._limit = anyio.CapacityLimiter(_AT_ONCE)

    async def watch(self, group: TaskGroup, scope: Scope, id: str) -> None:
        """Check a container from now on, if it has a check and runs; once only, however often it is asked."""
        try:
            container = await self._context.containers.get(scope, id)
        except NotFound:
            return
        config = config_of(container)
        if config is None or config.health is None:
            return
        key = (scope.namespace, id)
        self.forget(scope, id)
        self._watched[key] = anyio.CancelScope()
        group.start_soon(self._watch, scope, container, config.health, self._watched[key])

    def forget(self, scope: Scope, id: str) -> None:
        """Stop checking a container: it has ended."""
        watched = self._watched.pop((scope.namespace, id), None)
        if watched is not None:
            watched.cancel()

    async def _watch(
        self, scope: Scope, container: Container, check: Healthcheck, cancel: anyio.CancelScope
    ) -> None:
        key = (scope.namespace, container.id)
        with cancel:
            try:
                await self._run(scope, container, check)
            except OrlopError as error:
                log.info("container %s is not checked any more: %s", container.id, error.message)
            except OSError as error:
                log.warning("what checks of container %s said cannot be kept: %s", container.id, error)
        if self._watched.get(key) is cancel:
            del self._watched[key]

    async def _run(self, scope: Scope, container: Container, check: Healthcheck) -> None:
        folders = self._context.folders
        await self._end_old(scope, container)
        started = (await to_thread.run_sync(folders.life, scope.namespace, container.id)).started_at or now()
        health = await to_thread.run_sync(folders.health, scope.namespace, container.id, started)
        if health is None:
            health = Health()
            await self._keep(scope, container, started, health)
        last = health.log[-1].ended_at if health.log else started
        while True:
            starting = _is_starting(health, check, started)
            interval = min(check.start_interval, check.interval) if starting else check.interval
            await anyio.sleep(max((last - now()).total_seconds() + interval, 0.0))
            result = await self._check(scope, container, check)
            if result is None:  # it was paused, or there was no room for one more process
                last = now()
                continue
            last = result.ended_at
            before, health = health, judge(health, result, check, started)
            await self._keep(scope, container, started, health)
            if health.status is not before.status:
                await self._tell(scope, container, health)

    async def _check(self, scope: Scope, container: Container, check: Healthcheck) -> HealthResult | None:
        state = await self._state(scope, container)
        if state in (TaskState.STOPPED, TaskState.CREATED):
            raise NotFound("it has ended")
        if state is not TaskState.RUNNING:
            return None
        options = ExecOptions(args=check.command)
        begun, said = now(), bytearray()
        code, why = -1, ""
        async with self._limit:
            begun = now()
            try:
                with anyio.fail_after(check.timeout + _GRACE):
                    async with (
                        self._processes.exec(scope, container.id, options, prefix=HEALTH_PREFIX) as session,
                        _killed_after(session, check.timeout) as late,
                    ):
                        async for item in session.output():
                            if isinstance(item, Output):
                                said += item.data[: _MOST_OUTPUT - len(said)]
                            elif isinstance(item, Exit):
                                code = item.code
                                break
                        if late.is_set():
                            code, why = -1, f"the check took longer than {check.timeout:g} s"
            except TimeoutError:
                code, why = -1, f"the check took longer than {check.timeout:g} s and could not be ended"
            except Unavailable:
                raise
            except OrlopError as error:
                why = error.message
        if code != 0 and await self._state(scope, container) is TaskState.STOPPED:
            raise NotFound("it has ended")
        text = said.decode("utf-8", "replace")
        return HealthResult(begun, now(), code, (f"{why}\n{text}" if text and why else why or text))

    async def _state(self, scope: Scope, container: Container) -> TaskState:
        task = await self._finder.task(scope, container)
        return (await task.status()).state if task else TaskState.STOPPED

    async def _end_old(self, scope: Scope, container: Container) -> None:
        """End checks that an earlier daemon began; nobody waits for them any more."""
        task = await self._finder.task(scope, container)
        for entry in await task.pids() if task else ():
            if task is not None and entry.exec_id.startswith(HEALTH_PREFIX):
                try:
                    await task.kill(SIGKILL, entry.exec_id)
                except NotFound:
                    continue

    async def _keep(self, scope: Scope, container: Container, started: datetime, health: Health) -> None:
        await to_thread.run_sync(
            self._context.folders.keep_health, scope.namespace, container.id, started, health
        )

    async def _tell(self, scope: Scope, container: Container, health: Health) -> None:
        fields = {
            "id": container.id,
            "status": health.status.value,
            "failing_streak": health.failing_streak,
        }
        await self._context.events.emit(scope, TOPIC, _MESSAGE, fields)


def judge(health: Health, result: HealthResult, check: Healthcheck, started: datetime) -> Health:
    """What a check's result makes of a container's health."""
    kept = (*health.log[-(_KEPT - 1) :], result)
    if result.code == 0:
        return Health(HealthStatus.HEALTHY, 0, kept)
    in_start = (result.started_at - started).total_seconds() < check.start_period
    if health.status is HealthStatus.STARTING and in_start:
        return replace(health, log=kept)
    streak = health.failing_streak + 1
    return Health(HealthStatus.UNHEALTHY if streak >= check.retries else health.status, streak, kept)


def _is_starting(health: Health, check: Healthcheck, started: datetime) -> bool:
    age = (now() - started).total_seconds()
    return health.status is HealthStatus.STARTING and age < check.start_period


@asynccontextmanager
async def _killed_after(session: Session, seconds: float) -> AsyncGenerator[anyio.Event]:
    """Kill a session's process when the time is over; the event says that it was."""
    late = anyio.Event()

    async def wait() -> None:
        await anyio.sleep(seconds)
        late.set()
        _kill_group(session.started.pid)
        with suppress(OrlopError):  # it has ended by itself meanwhile
            await session.send(SendSignal(SIGKILL))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        yield late
        group.cancel_scope.cancel()


def _kill_group(pid: int) -> None:
    """Kill what a check has started too: it leads a session of its own."""
    with suppress(OSError):
        if pid > 1 and os.getpgid(pid) == pid:
            os.killpg(pid, SIGKILL)
