"""Tasks: the running side of containers, whichever runtime runs them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from orlopd.plugin import Runtime
from orlopd.plugin.errors import AlreadyExists, InvalidArgument, NotFound
from orlopd.plugin.runtime import Stdio, Task, TaskEvent, TaskSpec
from orlopd.plugin.values import Container, Descriptor, Event, Mount, TypedBytes

from .checkpoints import Checkpoints
from .containers import Containers
from .events import EventBus
from .identifiers import check_identifier, check_namespace
from .kept_task import KeptTask
from .scope import Scope

log = logging.getLogger("orlopd.tasks")

_Key = tuple[str, str]
_LAST_EVENTS = 5.0
_NO_STDIO = Stdio()


class Tasks:
    """The tasks of all runtimes by namespace and container id; an async context manager.

    Every event of every task is published on the bus, once and in order. How far that went is kept in a file
    for each task, so that a daemon that comes back goes on where the last one was.
    """

    def __init__(
        self,
        runtimes: Mapping[str, Runtime],
        containers: Containers,
        checkpoints: Checkpoints,
        events: EventBus,
        *,
        state: Path,
    ) -> None:
        """:param state: a folder of this class's own, which a reboot may empty"""
        self._runtimes = runtimes
        self._containers = containers
        self._checkpoints = checkpoints
        self._events = events
        self._state = state
        self._kept: dict[_Key, KeptTask] = {}
        self._making: set[_Key] = set()
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._group = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._group is not None
        self._group.cancel_scope.cancel()
        return await self._group.__aexit__(kind, error, trace)

    async def recover(self) -> None:
        """Find what an earlier daemon left running. A runtime that fails is logged; the others go on.

        What is kept for a task that such a runtime may have is kept on, until a start finds the runtime well.
        """
        all_well = True
        for name, runtime in self._runtimes.items():
            try:
                found = await runtime.recover()
            except Exception:
                log.exception("cannot recover the tasks of runtime %s", name)
                all_well = False
                continue
            for task in found:
                marks = _Marks(self._state, task.namespace, task.id)
                self._keep(task, name, marks, await to_thread.run_sync(marks.load))
        traces = {*await to_thread.run_sync(_marked, self._state), *await self._checkpoints.found()}
        spared = {
            key for key in traces - set(self._kept) if await self._may_be_there(*key, all_well=all_well)
        }
        await to_thread.run_sync(_sweep, self._state, {*self._kept, *spared})
        await self._checkpoints.sweep(set(self._kept), spared)

    async def _may_be_there(self, namespace: str, id: str, *, all_well: bool) -> bool:
        """Whether a task that no runtime told of may be one of a runtime that failed or is not open."""
        try:
            container = await self._containers.get(Scope(namespace), id)
        except (NotFound, InvalidArgument):
            return False
        return not all_well or container.runtime not in self._runtimes

    async def create(
        self,
        scope: Scope,
        container_id: str,
        *,
        rootfs: Sequence[Mount] = (),
        stdio: Stdio = _NO_STDIO,
        options: TypedBytes | None = None,
        checkpoint: str | Descriptor = "",
        bundle: str = "",
        runtime: str = "",
        spec: bytes = b"",
    ) -> Task:
        """Make the task of a container.

        :param options: the runtime's; the container's own when missing or empty
        :param checkpoint: a folder or a blob to restore from
        :param runtime: the runtime's name instead of the container's
        :param spec: an OCI runtime spec instead of the container's
        :raises NotFound: there is no such container or runtime
        :raises AlreadyExists: it has a task
        :raises OrlopError: as :meth:`orlopd.plugin.runtime.Runtime.create`
        """
        container = await self._containers.get(scope, container_id)
        key = _key(scope, container_id)
        if key in self._kept or key in self._making:
            raise AlreadyExists(f"task {container_id}: already exists", resource=f"task {container_id}")
        name = runtime or container.runtime
        chosen = self._runtime(name)
        if options is None or not options.value:
            options = container.runtime_options
        marks = _Marks(self._state, scope.namespace, container_id)
        spec = spec or _spec_of(container, bundle)
        self._making.add(key)
        try:
            async with self._laid_out(scope, container_id, checkpoint) as folder:
                task = await chosen.create(
                    TaskSpec(
                        namespace=scope.namespace,
                        id=container_id,
                        spec=spec,
                        rootfs=rootfs,
                        stdio=stdio,
                        options=options,
                        checkpoint=folder,
                        bundle=bundle,
                        runtime=name,
                    )
                )
            return self._keep(task, name, marks, 0)
        finally:
            self._making.discard(key)

    async def checkpoint(
        self, scope: Scope, task: Task, options: TypedBytes | None, config: bytes
    ) -> Sequence[Descriptor]:
        """Checkpoint a task into the content store; see :meth:`.checkpoints.Checkpoints.save`."""
        return await self._checkpoints.save(scope, task, options, config)

    async def get(self, scope: Scope, id: str) -> Task:
        """The task of a container. :raises NotFound: there is none"""
        kept = self._kept.get(_key(scope, id))
        if kept is None:
            raise NotFound(f"task {id} not found: not found", resource=f"task {id}")
        return kept

    async def list(self, scope: Scope) -> Sequence[Task]:
        """The tasks of a namespace by id."""
        return [kept for (namespace, _), kept in sorted(self._kept.items()) if namespace == scope.namespace]

    def runtime_of(self, task: Task) -> str:
        """The name of the runtime that runs a task; "" for one that is no more."""
        kept = self._kept.get((task.namespace, task.id))
        return kept.runtime if kept is not None else ""

    def _runtime(self, name: str) -> Runtime:
        try:
            return self._runtimes[name]
        except KeyError as error:
            raise NotFound(
                f"runtime {name!r} not found: not found",
                reason="RUNTIME_NOT_FOUND",
                resource=f"runtime {name}",
                hint=f"this daemon has: {', '.join(self._runtimes) or 'none'}",
            ) from error

    def _keep(self, task: Task, runtime: str, marks: _Marks, seen: int) -> KeptTask:
        kept = KeptTask(task, runtime, self._forget, self._started)
        self._kept[task.namespace, task.id] = kept
        assert self._group is not None
        self._group.start_soon(self._pump, kept, marks, seen)
        return kept

    def _laid_out(
        self, scope: Scope, id: str, checkpoint: str | Descriptor
    ) -> AbstractAsyncContextManager[str]:
        if isinstance(checkpoint, Descriptor):
            return self._checkpoints.laid_out(scope, id, checkpoint)
        return contextlib.nullcontext(checkpoint)

    async def _started(self, kept: KeptTask) -> None:
        await self._checkpoints.forget(kept.namespace, kept.id)

    async def _forget(self, kept: KeptTask) -> None:
        """A task was deleted: what it did last is published before whoever deleted it learns so."""
        await self._checkpoints.forget(kept.namespace, kept.id)
        with anyio.move_on_after(_LAST_EVENTS):
            await kept.published.wait()
        if self._kept.get((kept.namespace, kept.id)) is kept:
            del self._kept[kept.namespace, kept.id]

    async def _pump(self, kept: KeptTask, marks: _Marks, seen: int) -> None:
        try:
            await to_thread.run_sync(marks.open, seen)
            async for event in kept.events(seen):
                try:
                    await self._events.publish(_event(kept.namespace, event))
                except InvalidArgument as error:
                    log.warning("event %d of task %s is dropped: %s", event.sequence, kept.id, error)
                marks.store(event.sequence)
            await to_thread.run_sync(marks.remove)
        except Exception:
            log.exception("the events of task %s/%s are not published any more", kept.namespace, kept.id)
        finally:
            marks.close()
            kept.published.set()


class _Marks:
    """How far a task's events were published: a number in a file, written in place.

    It need not survive a reboot, which no task does, so it is not synced.
    """

    def __init__(self, state: Path, namespace: str, id: str) -> None:
        self._path = state / namespace / id
        self._fd = -1

    def load(self) -> int:
        try:
            return int.from_bytes(self._path.read_bytes()[:8], "big")
        except OSError:
            return 0

    def open(self, seen: int) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.store(seen)

    def store(self, seen: int) -> None:
        os.pwrite(self._fd, seen.to_bytes(8, "big"), 0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._path.parent.rmdir()


def _marked(state: Path) -> list[_Key]:
    return [(path.parent.name, path.name) for path in state.glob("*/*")]


def _sweep(state: Path, kept: set[_Key]) -> None:
    """Remove the marks of tasks that are no more, or a new task of the same name would be thought known."""
    for key in _marked(state):
        if key not in kept:
            state.joinpath(*key).unlink(missing_ok=True)
    for namespace in state.glob("*"):
        with contextlib.suppress(OSError):
            namespace.rmdir()


def _key(scope: Scope, id: str) -> _Key:
    return check_namespace(scope.namespace), check_identifier(id, "container id")


def _spec_of(container: Container, bundle: str) -> bytes:
    if container.spec is None and not bundle:
        raise InvalidArgument(f"container {container.id} has no spec to make a task of")
    return container.spec.value if container.spec is not None else b""


def _event(namespace: str, event: TaskEvent) -> Event:
    return Event(event.at, namespace, event.topic, event.message, event.fields)
