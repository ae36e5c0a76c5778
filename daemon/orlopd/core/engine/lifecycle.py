"""Waiting for containers, stopping, freezing and removing them, and what they wrote."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio import to_thread

from orlopd.core.flow import task_group
from orlopd.core.logs import EVERYTHING, LogEntry, LogQuery, read_log
from orlopd.core.scope import Scope
from orlopd.core.signals import parse_signal
from orlopd.plugin.errors import DeadlineExceeded, FailedPrecondition, NotFound, OrlopError
from orlopd.plugin.runtime import Exit, Task, TaskState
from orlopd.plugin.values import Container, TypedBytes

from .context import Context
from .find import Finder
from .model import View
from .policy import note_stop
from .processes import SIGKILL, Processes
from .record import DEFAULT_STOP_SIGNAL, config_of, name_of

log = logging.getLogger("orlopd.engine")

_KILLED = 30.0  # seconds in which a killed process must be gone
_DRAIN = 10.0  # seconds for clients to take the last output of a container that removes itself
_FOREIGN_STOP_SIGNAL = "io.containerd.image.config.stop-signal"


class Lifecycle:
    """Everything that is done to a container after it was made, but starting it."""

    def __init__(self, context: Context, finder: Finder, processes: Processes) -> None:
        self._context = context
        self._finder = finder
        self._processes = processes

    async def wait(self, scope: Scope, reference: str) -> Exit:
        """Wait until a container's main process has ended; at once if it has.

        :raises NotFound: there is no such container
        :raises FailedPrecondition: it was never started
        """
        container = await self._finder.container(scope, reference)
        task = await self._finder.task(scope, container)
        if task is not None:
            status = await task.status()
            if status.state is not TaskState.CREATED:
                return await task.wait()
        view = await self._finder.view(scope, container)
        if view.exit is None:
            raise FailedPrecondition(
                f"container {name_of(container)} was never started",
                reason="CONTAINER_NOT_STARTED",
                hint=f"start it with: orlop start {name_of(container)}",
            )
        return view.exit

    async def stop(self, scope: Scope, reference: str, timeout: float = 10.0) -> Exit | None:
        """Ask a container to end, and kill it after ``timeout`` seconds.

        :returns: how it ended, None if it was never started
        :raises NotFound: there is no such container
        :raises DeadlineExceeded: it did not even end when it was killed
        """
        container = await self._finder.container(scope, reference)
        await note_stop(self._context, scope, container, stopped=True)
        task = await self._finder.task(scope, container)
        status = await task.status() if task else None
        if task is None or status is None or status.state is TaskState.CREATED:
            return (await self._finder.view(scope, container)).exit
        if status.state is TaskState.STOPPED:
            return status.exit
        with suppress(NotFound, FailedPrecondition):  # it may end by itself meanwhile
            await task.kill(_stop_signal(container))
            if status.state in (TaskState.PAUSED, TaskState.PAUSING):
                await task.resume()  # a frozen process sees its signal when it is thawed
        with anyio.move_on_after(max(timeout, 0)):
            return await task.wait()
        return await self._kill(task, container)

    async def kill(self, scope: Scope, reference: str, signal: str = "", *, all: bool = False) -> None:
        """Send a signal to a container's main process, SIGKILL when none is named.

        :raises NotFound: there is no such container
        :raises FailedPrecondition: it does not run
        :raises InvalidArgument: there is no such signal
        """
        number = parse_signal(signal) if signal else SIGKILL
        container = await self._finder.container(scope, reference)
        task, _ = await self._processes.running(scope, container)
        if number in (SIGKILL, _stop_signal(container)):
            await note_stop(self._context, scope, container, stopped=True)
        await task.kill(number, all=all)

    async def pause(self, scope: Scope, reference: str) -> None:
        """Freeze a container. :raises FailedPrecondition: it does not run, or is frozen"""
        container = await self._finder.container(scope, reference)
        task, status = await self._processes.running(scope, container)
        if status.state is not TaskState.RUNNING:
            raise FailedPrecondition(
                f"container {name_of(container)} is paused already", reason="CONTAINER_PAUSED"
            )
        await task.pause()

    async def resume(self, scope: Scope, reference: str) -> None:
        """Thaw a container. :raises FailedPrecondition: it is not frozen"""
        container = await self._finder.container(scope, reference)
        task, status = await self._processes.running(scope, container)
        if status.state is TaskState.RUNNING:
            raise FailedPrecondition(
                f"container {name_of(container)} is not paused", reason="CONTAINER_NOT_PAUSED"
            )
        await task.resume()

    async def remove(self, scope: Scope, reference: str, *, force: bool = False) -> str:
        """Remove a container with its task, snapshot and log. Its id.

        The record goes before the snapshot and the folder: a crash in between leaves garbage that is
        collected, never half a container.

        :raises NotFound: there is no such container
        :raises FailedPrecondition: it runs and ``force`` is not set
        """
        container = await self._finder.container(scope, reference)
        await self._context.finisher.finish(lambda: self._remove(scope, container, force))
        return container.id

    async def auto_remove(self, scope: Scope, id: str) -> None:
        """Remove a container that asked for it, if its main process has ended and when its clients have
        everything. Whoever comes second finds nothing to do."""
        await self._context.connections.none_left((scope.namespace, id, ""), _DRAIN)
        try:
            container = await self._context.containers.get(scope, id)
            config = config_of(container)
            if config is None or not config.spec.auto_remove:
                return
            task = await self._finder.task(scope, container)
            if task is not None and (await task.status()).state is not TaskState.STOPPED:
                return
            await self.remove(scope, id)
        except NotFound:
            pass
        except OrlopError as error:
            log.warning("container %s could not be removed after its end: %s", id, error)

    @asynccontextmanager
    async def logs(
        self, scope: Scope, reference: str, query: LogQuery = EVERYTHING, *, follow: bool = False
    ) -> AsyncGenerator[AsyncIterator[LogEntry]]:
        """What a container wrote; with ``follow`` on until it has ended and all was given.

        :raises NotFound: there is no such container
        """
        container = await self._finder.container(scope, reference)
        path = self._context.folders.log(scope.namespace, container.id)
        task = await self._finder.task(scope, container) if follow else None
        if task is None:
            yield read_log(path, query)
            return
        ended = anyio.Event()

        async def watch() -> None:
            with suppress(OrlopError):
                await task.wait()
            ended.set()

        async with task_group() as group:
            group.start_soon(watch)
            yield read_log(path, query, ended=ended)
            group.cancel_scope.cancel()

    async def stats(self, scope: Scope, reference: str) -> tuple[Task, TypedBytes]:
        """A container's task and its cgroup metrics, a message of ``io.containerd.cgroups``.

        :raises NotFound: there is no such container
        :raises FailedPrecondition: it does not run
        """
        container = await self._finder.container(scope, reference)
        task, _ = await self._processes.running(scope, container)
        return task, await task.stats()

    async def view(self, scope: Scope, reference: str) -> tuple[View, Container]:
        """How a container is, and its record. :raises NotFound: there is none"""
        container = await self._finder.container(scope, reference)
        return await self._finder.view(scope, container), container

    async def _remove(self, scope: Scope, container: Container, force: bool) -> None:
        context = self._context
        async with context.locks.hold(context.lock(scope, container.id)):
            # It may have been removed while this waited for the lock.
            await context.containers.get(scope, container.id)
            task = await self._finder.task(scope, container)
            if task is not None:
                await self._end(task, container, force)
            await context.containers.delete(scope, container.id)
            await self._remove_rest(scope, container)

    async def _end(self, task: Task, container: Container, force: bool) -> None:
        status = await task.status()
        if status.state not in (TaskState.CREATED, TaskState.STOPPED):
            if not force:
                raise FailedPrecondition(
                    f"container {name_of(container)} runs",
                    reason="CONTAINER_RUNNING",
                    resource=f"container {name_of(container)}",
                    hint=f"stop it first: orlop stop {name_of(container)}; or force it: orlop rm -f",
                )
            await self._kill(task, container)
        with suppress(NotFound):
            await task.delete()

    async def _kill(self, task: Task, container: Container) -> Exit:
        with anyio.move_on_after(_KILLED):
            with suppress(NotFound, FailedPrecondition):
                await task.kill(SIGKILL, all=True)
            return await task.wait()
        raise DeadlineExceeded(
            f"container {name_of(container)} did not end within {_KILLED:.0f} s of being killed",
            reason="KILL_TIMEOUT",
            hint="a process of it may hang in the kernel: look for state D in ps",
        )

    async def _remove_rest(self, scope: Scope, container: Container) -> None:
        context = self._context
        # A snapshot that another client prepared may be shared; the collector knows.
        if container.snapshot_key and config_of(container) is not None:
            try:
                await context.snapshots.for_name(container.snapshotter).remove(scope, container.snapshot_key)
            except NotFound:
                pass
            except OrlopError as error:
                log.warning("snapshot of container %s is left to the collector: %s", container.id, error)
        await to_thread.run_sync(context.folders.remove, scope.namespace, container.id)


def _stop_signal(container: Container) -> int:
    config = config_of(container)
    wanted = config.stop_signal if config else container.labels.get(_FOREIGN_STOP_SIGNAL, "")
    try:
        return parse_signal(wanted or DEFAULT_STOP_SIGNAL)
    except OrlopError:  # an image's word
        return parse_signal(DEFAULT_STOP_SIGNAL)
