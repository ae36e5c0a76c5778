"""What the daemon does when containers end, whoever started them and whenever."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from contextlib import suppress

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup, TaskStatus

from orlopd.core.scope import Scope
from orlopd.plugin.errors import NotFound, OrlopError, ResourceExhausted
from orlopd.plugin.runtime import Exit
from orlopd.plugin.values import Event, FieldValue

from .context import Context
from .create import is_own_id
from .health import HealthMonitor
from .lifecycle import Lifecycle
from .model import Life
from .policy import When, policy_of
from .processes import EXEC_PREFIX, Processes
from .record import config_of
from .restart import Restarts

log = logging.getLogger("orlopd.engine")

_START = "/tasks/start"
_EXIT = "/tasks/exit"
_DELETED = "/containers/delete"


class Supervisor:
    """Removes containers that asked for it, starts others again, forgets ended execs, notes exits, sweeps up
    after crashes."""

    def __init__(
        self,
        context: Context,
        lifecycle: Lifecycle,
        processes: Processes,
        restarts: Restarts,
        health: HealthMonitor,
    ) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._processes = processes
        self._restarts = restarts
        self._health = health

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled. Ready when what an earlier daemon left undone has been looked at."""
        filters = [f'topic=="{topic}"' for topic in (_START, _EXIT, _DELETED)]
        ready = False
        async with anyio.create_task_group() as group:
            while True:
                try:
                    async with self._context.events.subscribe(filters) as events:
                        await self._sweep(group, strays=not ready)
                        if not ready:
                            task_status.started()
                            ready = True
                        async for event in events:
                            group.start_soon(self._handle, group, event)
                except ResourceExhausted as error:
                    log.warning("the supervisor of containers looks at all of them anew: %s", error)

    async def _sweep(self, group: TaskGroup, *, strays: bool) -> None:
        """Containers that ended while nobody looked go, and (before anything is made) folders without one."""
        context = self._context
        known: set[tuple[str, str]] = set()
        try:
            for namespace in await context.namespaces.list():
                scope = Scope(namespace.name)
                async for container in context.containers.walk(scope):
                    known.add((namespace.name, container.id))
                    await self._health.watch(group, scope, container.id)
                    config = config_of(container)
                    if (
                        config is not None
                        and config.spec.auto_remove
                        and await self._was_started(scope, container.id)
                    ):
                        group.start_soon(self._lifecycle.auto_remove, scope, container.id)
                    elif policy_of(container).when is not When.NO:
                        group.start_soon(self._start_again, scope, container.id, strays)
            if strays:
                await self._remove_strays(known)
        except (OrlopError, OSError) as error:
            log.warning("what an earlier daemon left could not be swept up: %s", error)

    async def _was_started(self, scope: Scope, id: str) -> bool:
        # One that was made and not started yet waits for its start, over a restart of the daemon too.
        life = await to_thread.run_sync(self._context.folders.life, scope.namespace, id)
        return life.started_at is not None

    async def _start_again(self, scope: Scope, id: str, starting: bool) -> None:
        try:
            await self._restarts.consider(scope, id, starting=starting)
        except (OrlopError, OSError) as error:
            log.warning("container %s is not started again: %s", id, error)

    async def _remove_strays(self, known: Set[tuple[str, str]]) -> None:
        for namespace, name in await to_thread.run_sync(lambda: list(self._context.folders.all())):
            if (namespace, name) not in known:
                try:
                    await self._remove_stray(Scope(namespace), name)
                except (OrlopError, OSError) as error:
                    log.warning("what is left of container %s/%s stays: %s", namespace, name, error)

    async def _remove_stray(self, scope: Scope, id: str) -> None:
        """What was being made when an earlier daemon died; a lease would keep its snapshot for a day."""
        snapshots = self._context.snapshots
        if is_own_id(id):
            for name in snapshots.names:
                with suppress(NotFound):
                    await snapshots.for_name(name).remove(scope, id)
        await to_thread.run_sync(self._context.folders.remove, scope.namespace, id)

    async def _handle(self, group: TaskGroup, event: Event) -> None:
        scope = Scope(event.namespace)
        try:
            if event.topic == _START:
                await self._health.watch(group, scope, _text(event.fields, "container_id"))
                return
            if event.topic == _DELETED:
                await self._forget(scope, _text(event.fields, "id"))
                return
            container_id, process = _text(event.fields, "container_id"), _text(event.fields, "id")
            if process == container_id:
                self._health.forget(scope, container_id)
                await self._note_exit(scope, container_id, event)
                await self._lifecycle.auto_remove(scope, container_id)
                await self._restarts.consider(scope, container_id)
            elif process.startswith(EXEC_PREFIX):
                await self._processes.forget_ended_exec(scope, container_id, process)
        except (OrlopError, OSError) as error:
            log.warning("%s of %s: %s", event.topic, dict(event.fields).get("container_id"), error)
        except Exception:
            log.exception("%s could not be dealt with", event.topic)

    async def _note_exit(self, scope: Scope, id: str, event: Event) -> None:
        """Keep how it ended, for when its task is gone: deleted by another client, or over a reboot."""
        context = self._context
        try:
            await context.containers.get(scope, id)
        except NotFound:
            return
        code = event.fields.get("exit_status")
        ended = Exit(code if isinstance(code, int) else 255, event.at, _text(event.fields, "reason"))
        folders = context.folders

        def keep() -> None:
            life = folders.life(scope.namespace, id)
            # A container of another API has no folder, and needs none.
            if life.started_at is not None and life.started_at <= ended.at:
                folders.keep_life(scope.namespace, id, Life(life.started_at, ended))

        await to_thread.run_sync(keep)

    async def _forget(self, scope: Scope, id: str) -> None:
        context = self._context
        async with context.locks.hold(context.lock(scope, id)):
            try:
                await context.containers.get(scope, id)
            except NotFound:
                await to_thread.run_sync(context.folders.remove, scope.namespace, id)


def _text(fields: Mapping[str, FieldValue], key: str) -> str:
    value = fields.get(key, "")
    return value if isinstance(value, str) else ""
