"""Finding containers and images by what people call them, and saying how containers are."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import suppress

import anyio
from anyio import to_thread

from orlopd.core.filters import FieldPath, in_map, parse
from orlopd.core.references import parse_reference
from orlopd.core.scope import Scope
from orlopd.plugin.errors import InvalidArgument, NotFound, OrlopError, Unavailable
from orlopd.plugin.runtime import ProcessStatus, Task, TaskState
from orlopd.plugin.values import Container, Image

from .context import Context
from .model import Health, Life, State, View
from .policy import count_of, policy_of
from .record import NAME_LABEL, config_of, name_of, own_labels, process_of

_STATES = {
    TaskState.CREATED: State.CREATED,
    TaskState.RUNNING: State.RUNNING,
    TaskState.PAUSED: State.PAUSED,
    TaskState.PAUSING: State.PAUSED,
    TaskState.STOPPED: State.STOPPED,
    TaskState.UNKNOWN: State.UNKNOWN,
}
_ANSWER = 5.0  # seconds that a shim has to say how its task is
_AT_ONCE = 16
_HEX = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")


class Finder:
    """Looks containers and images up."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def container(self, scope: Scope, reference: str) -> Container:
        """A container by its id, its name, or the beginning of its id, in this order.

        :raises NotFound: there is none
        :raises InvalidArgument: nothing was named, or several ids begin so
        """
        if not reference:
            raise InvalidArgument("no container was named: give an id, the beginning of one, or a name")
        with suppress(NotFound, InvalidArgument):
            return await self._context.containers.get(scope, reference)
        containers = await self._context.containers.list(scope)
        for container in containers:
            if container.labels.get(NAME_LABEL) == reference:
                return container
        found = [container for container in containers if container.id.startswith(reference)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f"{each.id[:12]} ({name_of(each)})" for each in found[:4])
            raise InvalidArgument(
                f"{reference!r} begins the ids of {len(found)} containers: {names}", reason="AMBIGUOUS_ID"
            )
        raise NotFound(
            f"container {reference[:128]!r} not found in namespace {scope.namespace}",
            reason="CONTAINER_NOT_FOUND",
            resource=f"container {reference[:128]}",
            hint="list all of them with: orlop ps -a",
        )

    async def task(self, scope: Scope, container: Container) -> Task | None:
        """A container's task, or None where it has none."""
        try:
            return await self._context.tasks.get(scope, container.id)
        except NotFound:
            return None

    async def view(self, scope: Scope, container: Container) -> View:
        """How a container is."""
        task = await self.task(scope, container)
        status = await self._status(task) if task else None
        life, health = await to_thread.run_sync(self._kept, scope, container)
        return _view(container, task is not None, status, life, health)

    async def views(
        self, scope: Scope, filters: Sequence[str] = (), states: Collection[State] = ()
    ) -> Sequence[View]:
        """How all containers are that match, newest first. Filters know id, name, image, runtime, labels.KEY.

        :raises InvalidArgument: a filter is malformed
        """
        wanted = parse(filters)
        containers = [
            each for each in await self._context.containers.list(scope) if wanted.match(_Adaptor(each))
        ]
        containers.sort(key=lambda each: (each.created_at, each.id), reverse=True)
        tasks = {task.id: task for task in await self._context.tasks.list(scope)}
        statuses: dict[str, ProcessStatus | None] = {}
        limit = anyio.CapacityLimiter(_AT_ONCE)

        async def ask(task: Task) -> None:
            async with limit:
                statuses[task.id] = await self._status(task)

        async with anyio.create_task_group() as group:
            for container in containers:
                if container.id in tasks:
                    group.start_soon(ask, tasks[container.id])

        def look() -> list[tuple[Life, Health | None]]:
            return [self._kept(scope, each) for each in containers]

        kept = await to_thread.run_sync(look)
        views = [
            _view(each, each.id in tasks, statuses.get(each.id), life, health)
            for each, (life, health) in zip(containers, kept, strict=True)
        ]
        return [view for view in views if not states or view.state in states]

    async def image(self, scope: Scope, name: str) -> Image:
        """An image by its name, a familiar name, its digest, or the beginning of the digest's hex.

        :raises NotFound: there is none
        :raises InvalidArgument: the name is malformed, or several digests begin so
        """
        if not name:
            raise InvalidArgument("no image was named")
        with suppress(NotFound):
            return await self._context.images.get(scope, name)
        match = _HEX.fullmatch(name)
        full = name
        if not name.startswith("sha256:"):
            full = parse_reference(name).name
            with suppress(NotFound):
                return await self._context.images.get(scope, full)
        found = await self._by_digest(scope, match[1]) if match else None
        if found is None:
            hint = (
                "list all of them with: orlop images" if full is name else f"pull it with: orlop pull {name}"
            )
            raise _no_image(scope, full, hint)
        return found

    async def _by_digest(self, scope: Scope, digits: str) -> Image | None:
        images = await self._context.images.list(scope)
        found = [each for each in images if each.target.digest.startswith("sha256:" + digits)]
        digests = {each.target.digest for each in found}
        if len(digests) > 1:
            raise InvalidArgument(
                f"{digits!r} begins the digests of {len(digests)} images", reason="AMBIGUOUS_ID"
            )
        return found[0] if found else None

    def _kept(self, scope: Scope, container: Container) -> tuple[Life, Health | None]:
        """What lies in a container's folder of how it was; the second is None where it has no check."""
        folders = self._context.folders
        life = folders.life(scope.namespace, container.id)
        config = config_of(container)
        if config is None or config.health is None or life.started_at is None:
            return life, None
        return life, folders.health(scope.namespace, container.id, life.started_at) or Health()

    async def _status(self, task: Task) -> ProcessStatus | None:
        try:
            with anyio.fail_after(_ANSWER):
                return await task.status()
        except (Unavailable, TimeoutError):
            return ProcessStatus(task.id, "", 0, TaskState.UNKNOWN)
        except NotFound:
            return None  # deleted meanwhile
        except OrlopError:
            return ProcessStatus(task.id, "", 0, TaskState.UNKNOWN)


def _no_image(scope: Scope, name: str, hint: str) -> NotFound:
    return NotFound(
        f"image {name[:256]} not found in namespace {scope.namespace}",
        reason="IMAGE_NOT_FOUND",
        resource=f"image {name[:256]}",
        hint=hint,
    )


class _Adaptor:
    """A record as filters see it."""

    def __init__(self, container: Container) -> None:
        self._container = container

    def __call__(self, path: FieldPath) -> str | None:
        container = self._container
        match path:
            case ("id",):
                return container.id
            case ("name",):
                return name_of(container)
            case ("image",):
                return container.image or None
            case ("runtime", *_):
                return container.runtime
            case ("labels", *key):
                return in_map(tuple(key), container.labels)
            case _:
                return None


def _view(
    container: Container, has_task: bool, status: ProcessStatus | None, life: Life, health: Health | None
) -> View:
    config = config_of(container)
    process = process_of(container)
    if has_task and status is not None:
        state, pid, ended = _STATES[status.state], status.pid, status.exit
    else:
        state, pid, ended = (State.STOPPED if life.started_at else State.CREATED), 0, life.exit
    args = process.get("args")
    return View(
        id=container.id,
        name=name_of(container),
        state=state,
        runtime=container.runtime,
        created_at=container.created_at,
        image=container.image,
        pid=pid if state in (State.RUNNING, State.PAUSED) else 0,
        exit=ended if state is State.STOPPED else None,
        args=tuple(str(arg) for arg in args) if isinstance(args, list) else (),  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
        started_at=life.started_at,
        labels=own_labels(container),
        snapshotter=container.snapshotter,
        terminal=bool(process.get("terminal")),
        auto_remove=config.spec.auto_remove if config else False,
        restart=str(policy_of(container)),
        restarts=count_of(container),
        health=health,
        spec=config.spec if config else None,
    )
