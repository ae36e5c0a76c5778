"""Starting processes and staying connected to them."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import anyio
from anyio import to_thread

from orlopd.core.oci import Process, Rootfs, build_process
from orlopd.core.scope import Scope
from orlopd.plugin.errors import DeadlineExceeded, FailedPrecondition, NotFound, OrlopError, Unavailable
from orlopd.plugin.runtime import (
    Attachment,
    Detached,
    ExecSpec,
    Exit,
    Input,
    Output,
    ProcessStatus,
    Resize,
    Stdio,
    Task,
    TaskState,
)
from orlopd.plugin.values import Container, now

from .context import Context
from .find import Finder
from .model import ExecOptions, Life, OnCancel, SourceKind, Started, Window
from .policy import note_stop
from .record import config_of, name_of, process_of
from .userns import mapped_root

log = logging.getLogger("orlopd.engine")

EXEC_PREFIX = "orlop-"
"""Execs that the engine made, and forgets again when they have ended."""

_CLEANUP = 30.0  # seconds to undo what was begun
_LOOKUP = 10.0  # seconds to look a user up in a running container
SIGKILL = 9


@dataclass(frozen=True, eq=False, slots=True)
class Session:
    """A process, and the connection to it if one was asked for."""

    container: Container
    started: Started
    attachment: Attachment | None = None

    @property
    def terminal(self) -> bool:
        """Whether the process has a terminal."""
        return self.attachment.terminal if self.attachment else False

    async def send(self, item: Input) -> None:
        """Tell the process something. :raises FailedPrecondition: nothing is connected, or input has ended"""
        if self.attachment is None:
            raise FailedPrecondition("this call is not connected to the process")
        await self.attachment.send(item)

    async def output(self) -> AsyncGenerator[Output | Exit | Detached]:
        """What the process writes; the last item is an Exit or Detached. Nothing without a connection."""
        if self.attachment is not None:
            async for item in self.attachment.output():
                yield item


class Processes:
    """Starts main processes and execs, and connects to them."""

    def __init__(self, context: Context, finder: Finder) -> None:
        self._context = context
        self._finder = finder

    @asynccontextmanager
    async def start(
        self,
        scope: Scope,
        reference: str,
        *,
        attach: bool = False,
        window: Window | None = None,
        on_cancel: OnCancel = OnCancel.DETACH,
    ) -> AsyncGenerator[Session]:
        """Start a container that is created or stopped. Leaving the block disconnects.

        The connection stands before the process runs, so that nothing it writes is missed.

        :param on_cancel: what happens to the process when the block is left by an exception or cancelled,
            unless it is the daemon that stops
        :raises NotFound: there is no such container
        :raises FailedPrecondition: it runs already, or its command cannot be executed
        """
        container = await self._finder.container(scope, reference)
        context = self._context
        async with AsyncExitStack() as stack:
            async with context.locks.hold(context.lock(scope, container.id)):
                await self._make_room(scope, container)
                task = await self._create(scope, container)
                try:
                    attachment: Attachment | None = None
                    if attach:
                        stack.enter_context(context.connections.hold((scope.namespace, container.id, "")))
                        attachment = await stack.enter_async_context(
                            task.attach(stdin=_holds_stdin(container))
                        )
                    if window is not None:
                        await _resize(task, window, "", attachment)
                    await note_stop(context, scope, container, stopped=False)
                    async with self._noting_start(scope, container):
                        pid = await task.start()
                except BaseException:
                    await _forget(task, "")
                    raise
            try:
                yield Session(container, Started(pid), attachment)
            except BaseException:
                if on_cancel is OnCancel.KILL and not context.stopping.is_set():
                    await _kill(task, "")
                raise

    @asynccontextmanager
    async def attach(
        self, scope: Scope, reference: str, *, scrollback: bool = False, window: Window | None = None
    ) -> AsyncGenerator[Session]:
        """Connect to a running container's main process. Leaving the block disconnects.

        :raises NotFound: there is no such container
        :raises FailedPrecondition: it does not run
        """
        container = await self._finder.container(scope, reference)
        task, status = await self.running(scope, container)
        key = (scope.namespace, container.id, "")
        with self._context.connections.hold(key):
            async with task.attach(stdin=_holds_stdin(container), scrollback=scrollback) as attachment:
                if window is not None:
                    await _resize(task, window, "", attachment)
                yield Session(container, Started(status.pid), attachment)

    @asynccontextmanager
    async def exec(
        self,
        scope: Scope,
        reference: str,
        options: ExecOptions,
        *,
        attach: bool = True,
        prefix: str = EXEC_PREFIX,
    ) -> AsyncGenerator[Session]:
        """Run one more process in a running container.

        Leaving the block by an exception or cancelled kills it, unless it is the daemon that stops; left
        otherwise, it runs on.

        :param attach: without it, it runs on once it was started, however the block is left
        :param prefix: what its id begins with
        :raises NotFound: there is no such container
        :raises FailedPrecondition: it does not run, or the command cannot be executed
        :raises InvalidArgument: what was asked makes no sense
        """
        container = await self._finder.container(scope, reference)
        task, status = await self.running(scope, container)
        if status.state is TaskState.PAUSED:
            raise FailedPrecondition(
                f"container {name_of(container)} is paused",
                reason="CONTAINER_PAUSED",
                hint=f"resume it first: orlop resume {name_of(container)}",
            )
        process = await self._process(container, status.pid, options)
        exec_id = prefix + secrets.token_hex(8)
        stdio = Stdio(terminal=options.terminal, attach=attach, hold_stdin=attach and options.stdin)
        stopping = self._context.stopping
        left_alone = False
        try:
            with self._context.connections.hold((scope.namespace, container.id, exec_id)):
                await task.exec(ExecSpec(exec_id, json.dumps(process).encode(), stdio))
                started = False
                try:
                    async with AsyncExitStack() as stack:
                        attachment: Attachment | None = None
                        if attach:
                            attachment = await stack.enter_async_context(
                                task.attach(exec_id, stdin=options.stdin)
                            )
                        if options.window is not None:
                            await _resize(task, options.window, exec_id, attachment)
                        pid = await task.start(exec_id)
                        started = True
                        yield Session(container, Started(pid, exec_id), attachment)
                except BaseException:
                    left_alone = started and (not attach or stopping.is_set())
                    if not left_alone:
                        await _forget(task, exec_id)
                    raise
        except BaseException:
            if left_alone and not stopping.is_set():
                with anyio.CancelScope(shield=True):
                    await self.forget_ended_exec(scope, container.id, exec_id)
            raise
        await self.forget_ended_exec(scope, container.id, exec_id)

    async def forget_ended_exec(self, scope: Scope, id: str, exec_id: str) -> None:
        """Have the shim forget an exec if it has ended and nobody is connected to it any more."""
        if self._context.connections.any((scope.namespace, id, exec_id)):
            return

        async def forget() -> None:
            task = await self._context.tasks.get(scope, id)
            if (await task.status(exec_id)).state is TaskState.STOPPED:
                await task.delete(exec_id)

        try:
            await self._context.finisher.finish(forget)
        except (NotFound, Unavailable):
            pass  # its container has just ended, or was removed
        except OrlopError as error:
            log.warning("exec %s of container %s could not be forgotten: %s", exec_id, id, error)

    async def running(self, scope: Scope, container: Container) -> tuple[Task, ProcessStatus]:
        """A container's task, which runs or is paused.

        :raises FailedPrecondition: it does not run
        """
        task = await self._finder.task(scope, container)
        status = await task.status() if task else None
        if task is None or status is None or status.state in (TaskState.CREATED, TaskState.STOPPED):
            raise FailedPrecondition(
                f"container {name_of(container)} does not run",
                reason="CONTAINER_NOT_RUNNING",
                resource=f"container {name_of(container)}",
                hint=f"start it with: orlop start {name_of(container)}",
            )
        return task, status

    async def _make_room(self, scope: Scope, container: Container) -> None:
        """Delete the task of an earlier run, which lies there so that its end can be asked for."""
        task = await self._finder.task(scope, container)
        if task is None:
            return
        status = await task.status()
        if status.state not in (TaskState.CREATED, TaskState.STOPPED):
            raise FailedPrecondition(
                f"container {name_of(container)} runs already",
                reason="CONTAINER_RUNNING",
                resource=f"container {name_of(container)}",
                hint=f"connect to it with: orlop attach {name_of(container)}",
            )
        with contextlib.suppress(NotFound):
            await task.delete()

    async def _create(self, scope: Scope, container: Container) -> Task:
        context = self._context
        config = config_of(container)
        mounts: Sequence[Any] = ()
        if container.snapshot_key:
            mounts = await context.snapshots.for_name(container.snapshotter).mounts(
                scope, container.snapshot_key
            )
        if config is not None and config.spec.source.kind is not SourceKind.BUNDLE:
            hostname = str(_spec_hostname(container))
            await to_thread.run_sync(
                context.folders.write_files,
                scope.namespace,
                container.id,
                hostname,
                config.spec.network,
                config.maps,
            )
            if config.spec.source.kind is SourceKind.ROOTFS and config.maps:
                mounts = [mapped_root(config.spec.source.value, config.maps)]
        await to_thread.run_sync(context.folders.make, scope.namespace, container.id)
        return await context.tasks.create(
            scope,
            container.id,
            rootfs=mounts,
            stdio=Stdio(
                terminal=bool(process_of(container).get("terminal")),
                attach=True,
                hold_stdin=_holds_stdin(container),
                log=str(context.folders.log(scope.namespace, container.id)),
            ),
            options=container.runtime_options,
            bundle=config.spec.source.value
            if config and config.spec.source.kind is SourceKind.BUNDLE
            else "",
        )

    @asynccontextmanager
    async def _noting_start(self, scope: Scope, container: Container) -> AsyncGenerator[None]:
        """Note the start before it happens, so that the end comes after it; as it was if it fails."""
        folders, key = self._context.folders, (scope.namespace, container.id)
        before = await to_thread.run_sync(folders.life, *key)
        await to_thread.run_sync(folders.keep_life, *key, Life(now()))
        try:
            yield
        except BaseException:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(folders.keep_life, *key, before)
            raise

    async def _process(self, container: Container, pid: int, options: ExecOptions) -> Process:
        found = process_of(container)
        if not isinstance(found.get("cwd"), str) or not isinstance(found.get("user"), dict):
            raise FailedPrecondition(f"container {name_of(container)} has no spec to take an exec's from")
        base = cast("Process", {"env": [], **found})

        def build() -> Process:
            # The root as the container sees it now; nothing in there is run or followed out of it.
            try:
                with Rootfs.open(Path(f"/proc/{pid}/root")) as rootfs:
                    return _build(rootfs)
            except NotFound as error:
                raise FailedPrecondition(
                    f"container {name_of(container)} has just ended", reason="CONTAINER_NOT_RUNNING"
                ) from error

        def _build(rootfs: Rootfs) -> Process:
            return build_process(
                base,
                rootfs,
                args=options.args,
                env=options.env,
                working_dir=options.working_dir,
                user=options.user,
                terminal=options.terminal,
            )

        # The files may lie on a filesystem that the container itself serves, and that never answers.
        with anyio.move_on_after(_LOOKUP):
            return await to_thread.run_sync(build, abandon_on_cancel=True)
        raise DeadlineExceeded(
            f"looking into container {name_of(container)} took longer than {_LOOKUP:.0f} s"
        )


def _spec_hostname(container: Container) -> str:
    for entry in process_of(container).get("env") or ():
        if isinstance(entry, str) and entry.startswith("HOSTNAME="):
            return entry.removeprefix("HOSTNAME=")
    return ""


def _holds_stdin(container: Container) -> bool:
    config = config_of(container)
    return config.spec.stdin if config else False


async def _resize(task: Task, window: Window, exec_id: str, attachment: Attachment | None) -> None:
    # A window without a terminal, or one that went away meanwhile, is no reason to fail.
    if window.width and window.height:
        with contextlib.suppress(FailedPrecondition, NotFound):
            await task.resize(window.width, window.height, exec_id)
            if attachment is not None and attachment.terminal:  # it counts again when this client types
                await attachment.send(Resize(window.width, window.height))


async def _kill(task: Task, exec_id: str) -> None:
    with anyio.CancelScope(shield=True), contextlib.suppress(OrlopError):
        await task.kill(SIGKILL, exec_id)


async def _forget(task: Task, exec_id: str) -> None:
    """Undo a process that was made: kill it if it runs, wait for its end, delete it."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(_CLEANUP, shield=True):
        try:
            status = await task.status(exec_id)
            if status.state not in (TaskState.CREATED, TaskState.STOPPED):
                with contextlib.suppress(NotFound, FailedPrecondition):
                    await task.kill(SIGKILL, exec_id)
                await task.wait(exec_id)
            await task.delete(exec_id)
        except NotFound:
            pass
        except OrlopError as error:
            log.warning("process %s of %s could not be undone: %s", exec_id or "(main)", task.id, error)
