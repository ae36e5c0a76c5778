"""A task under a foreign shim."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from google.protobuf.any_pb2 import Any as AnyMessage

from orlop_protos.containerd.task.v3 import shim_pb2 as task
from orlop_protos.containerd.types import mount_pb2
from orlopd.plugin import mount
from orlopd.plugin.errors import FailedPrecondition, NotFound, OrlopError, Unavailable
from orlopd.plugin.runtime import (
    Attachment,
    ExecSpec,
    Exit,
    ProcessEntry,
    ProcessStatus,
    Stdio,
    TaskEvent,
    TaskSpec,
    TaskState,
)
from orlopd.plugin.shim_info import ShimInfo
from orlopd.plugin.values import TypedBytes

from ..oci import shim_process
from ..oci.convert import STATES, entry_of, exec_request, exit_of, update_request
from ..oci.folder import Folder, check_id
from ..oci.shimlog import NAME, explained, note_loss
from ..oci.wire import from_timestamp
from .calls import Calls
from .history import History, dead, remove
from .log import ShimLog
from .program import Program

log = logging.getLogger(__name__)

_LONG = 150.0
_SHORT = 10.0
_ANSWER = 3.0
_SHUTDOWN = 3.0
_LAST_EVENT = 1.0
_KILLED = 137


class ForeignTask:
    """One task. See :class:`orlopd.plugin.runtime.Task` for what its methods promise."""

    def __init__(
        self, program: Program, folder: Folder, calls: Calls | None, address: str, said: ShimLog
    ) -> None:
        """
        :param calls: None where the shim is known to be gone
        :param said: what the shim logs; closed with the task
        """
        self.deleted = anyio.Event()
        self.history = History(folder.path, program.id)
        self._program = program
        self._folder = folder
        self._calls = calls
        self._address = address
        self._said = said
        self._lost: Exit | None = None
        self._pid = 0
        self._ending = False
        self._burying = anyio.Lock()
        self._deleting = anyio.Lock()

    @property
    def namespace(self) -> str:
        return self._program.namespace

    @property
    def id(self) -> str:
        return self._program.id

    async def make(self, spec: TaskSpec) -> None:
        """Have the shim create the container."""
        options = spec.options
        reply = await self._call(
            "Create",
            task.CreateTaskRequest(
                id=self.id,
                bundle=str(self._folder.path),
                rootfs=[
                    mount_pb2.Mount(type=m.type, source=m.source, target=m.target, options=m.options)
                    for m in spec.rootfs
                ],
                terminal=spec.stdio.terminal,
                stdin=spec.stdio.stdin,
                stdout=spec.stdio.stdout,
                stderr=spec.stdio.stderr,
                checkpoint=spec.checkpoint,
                options=AnyMessage(type_url=options.type_url, value=options.value) if options else None,
            ),
            _LONG,
        )
        self._pid = reply.pid

    async def start(self, exec_id: str = "") -> int:
        reply = await self._call("Start", task.StartRequest(id=self.id, exec_id=exec_id), _LONG)
        return reply.pid

    async def exec(self, spec: ExecSpec) -> None:
        check_id("exec id", spec.id)
        refuse_attach(spec.stdio)
        await self._call("Exec", exec_request(self.id, spec))

    async def status(self, exec_id: str = "") -> ProcessStatus:
        if self._lost is not None:
            self._only_main(exec_id)
            return ProcessStatus(
                self.id, "", self._pid, TaskState.STOPPED, Stdio(), self._lost, str(self._folder.path)
            )
        reply = await self._call("State", task.StateRequest(id=self.id, exec_id=exec_id))
        if not exec_id:
            self._pid = reply.pid or self._pid
        state = STATES.get(reply.status, TaskState.UNKNOWN)
        end = Exit(reply.exit_status, from_timestamp(reply.exited_at)) if state is TaskState.STOPPED else None
        stdio = Stdio(reply.stdin, reply.stdout, reply.stderr, reply.terminal)
        return ProcessStatus(self.id, exec_id, reply.pid, state, stdio, end, reply.bundle)

    async def wait(self, exec_id: str = "") -> Exit:
        if self._lost is not None:
            self._only_main(exec_id)
            return self._lost
        try:
            reply = await self._call("Wait", task.WaitRequest(id=self.id, exec_id=exec_id), None)
        except OrlopError:
            if self._lost is None:
                raise
            return self._lost
        return Exit(reply.exit_status, from_timestamp(reply.exited_at))

    async def kill(self, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        if self._lost is not None:
            raise NotFound("process already finished: not found", reason="PROCESS_FINISHED")
        await self._call("Kill", task.KillRequest(id=self.id, exec_id=exec_id, signal=signal, all=all))

    async def delete(self, exec_id: str = "") -> Exit:
        if exec_id:
            self._only_main(exec_id if self._lost is not None else "")
            return exit_of(await self._call("Delete", task.DeleteRequest(id=self.id, exec_id=exec_id)))
        async with self._deleting:
            if self.deleted.is_set():
                raise NotFound(f"task {self.id} not found: not found", resource=f"task {self.id}")
            end = self._lost
            if end is None:
                try:
                    end = exit_of(await self._call("Delete", task.DeleteRequest(id=self.id), _LONG))
                except OrlopError:
                    if self._lost is None:
                        raise
                    end = self._lost
            with anyio.CancelScope(shield=True):
                await self._finish(end)
        return end

    async def pids(self) -> Sequence[ProcessEntry]:
        if self._lost is not None:
            return []
        reply = await self._call("Pids", task.PidsRequest(id=self.id))
        return [entry_of(item) for item in reply.processes]

    async def pause(self) -> None:
        await self._call("Pause", task.PauseRequest(id=self.id))

    async def resume(self) -> None:
        await self._call("Resume", task.ResumeRequest(id=self.id))

    async def resize(self, width: int, height: int, exec_id: str = "") -> None:
        request = task.ResizePtyRequest(id=self.id, exec_id=exec_id, width=width, height=height)
        await self._call("ResizePty", request)

    async def close_stdin(self, exec_id: str = "") -> None:
        await self._call("CloseIO", task.CloseIORequest(id=self.id, exec_id=exec_id, stdin=True))

    async def stats(self) -> TypedBytes:
        reply = await self._call("Stats", task.StatsRequest(id=self.id))
        return TypedBytes(reply.stats.type_url, reply.stats.value)

    async def update(self, resources: bytes, annotations: Mapping[str, str]) -> None:
        await self._call("Update", update_request(self.id, resources, annotations))

    async def checkpoint(self, path: str, options: TypedBytes | None) -> None:
        packed = AnyMessage(type_url=options.type_url, value=options.value) if options is not None else None
        request = task.CheckpointTaskRequest(id=self.id, path=path, options=packed)
        await self._call("Checkpoint", request, _LONG)

    @asynccontextmanager
    async def attach(
        self, exec_id: str = "", *, stdin: bool = False, scrollback: bool = False
    ) -> AsyncIterator[Attachment]:
        raise no_attach()
        yield  # a context manager, like its siblings

    async def events(self, after: int = 0) -> AsyncIterator[TaskEvent]:
        async for event in self.history.follow(after):
            yield event

    async def watch(self) -> None:
        """Notice the shim's death and clean up after it. Returns then, or when the task is deleted."""
        if self._calls is not None:
            await self._calls.closed()
        if not self._ending:
            await self.bury()

    async def bury(self) -> None:
        """The shim is gone: have its program clean up, and note an end that nobody saw."""
        async with self._burying:
            if self._lost is not None or self._ending:
                return
            log.warning("the shim of task %s/%s is gone", self.namespace, self.id)
            seen = self.history.ended()
            end = seen or dead(_KILLED)
            with anyio.CancelScope(shield=True):
                await self._clean_up()
                self.history.end(self._pid, end)
                became = f"its container counts as ended with code {end.code}"
                await anyio.to_thread.run_sync(note_loss, self._folder.path, became)
            self._lost = end

    async def abandon(self) -> None:
        """Undo a task that was never whole."""
        self._ending = True
        with anyio.CancelScope(shield=True):
            if self._calls is not None:
                with contextlib.suppress(OrlopError):
                    await self._calls.call("Kill", task.KillRequest(id=self.id, signal=9, all=True), _SHORT)
                with contextlib.suppress(OrlopError):
                    await self._calls.call("Delete", task.DeleteRequest(id=self.id), _SHORT)
            gone = await self._shut_down()
            await self._clean_up(gone=gone)
            await self._forget()

    async def aclose(self) -> None:
        """Let go of the shim, which lives on."""
        self._ending = True
        self._said.close()
        if self._calls is not None:
            await self._calls.close()

    async def _finish(self, end: Exit) -> None:
        """The container is deleted: tell so, end the shim, remove the folder."""
        with anyio.move_on_after(_LAST_EVENT):
            if self._lost is None:
                await self.history.told_delete.wait()
        self.history.end(self._pid, end)
        self._ending = True
        gone = await self._shut_down()
        if self._lost is None:
            await self._clean_up(gone=gone)
        self.history.delete(self._pid, end)
        await self._forget()

    async def _forget(self) -> None:
        self._said.close()
        await anyio.to_thread.run_sync(self._folder.remove)
        self.deleted.set()

    async def _shut_down(self) -> bool:
        """Have the shim end; whether it is gone. One that has other containers too stays."""
        if self._calls is None:
            return True
        gone = False
        with contextlib.suppress(OrlopError):  # it is gone before it can answer
            await self._calls.call("Shutdown", task.ShutdownRequest(id=self.id), _SHUTDOWN)
        with anyio.move_on_after(_SHUTDOWN):
            await self._calls.closed()
            gone = True
        await self._calls.close()
        return gone

    async def _clean_up(self, *, gone: bool = True) -> None:
        try:
            await self._program.delete(_SHORT)
        except OrlopError as error:
            # One that made nothing has nothing to clean up, and may say so.
            level = logging.WARNING if self._pid else logging.DEBUG
            log.log(level, "what is left of task %s/%s: %s", self.namespace, self.id, error)
        await anyio.to_thread.run_sync(_unmount, self._folder.path / "rootfs")
        if gone and self._address.startswith("/"):
            await anyio.to_thread.run_sync(remove, Path(self._address))

    async def _call(self, method: str, request: Any, deadline: float | None = _SHORT) -> Any:
        if self.deleted.is_set():
            raise NotFound(f"task {self.id} not found: not found", resource=f"task {self.id}")
        if self._lost is not None or self._calls is None:
            raise self._lost_error()
        with explained(self._folder.path / NAME):
            try:
                return await self._calls.call(method, request, deadline)
            except Unavailable:
                with anyio.move_on_after(0.5):
                    await self._calls.closed()
                    await self.bury()
                if self._lost is not None:
                    raise self._lost_error() from None
                raise

    async def shim_info(self) -> ShimInfo:
        """See :meth:`orlopd.plugin.shim_info.ShimTask.shim_info`."""
        pid, task_pid, said, problem = 0, 0, "", ""
        try:
            reply = await self._call("Connect", task.ConnectRequest(id=self.id), _ANSWER)
            pid, task_pid, said = reply.shim_pid, reply.task_pid, reply.version
        except OrlopError as error:
            problem = error.message
        calls = self._calls

        info = ShimInfo(
            binary=self._program.binary,
            pid=pid,
            task_pid=task_pid,
            address=self._address,
            protocol=calls.protocol if calls is not None else "",
            version=said,
            bundle=str(self._folder.path),
            log=str(self._folder.path / NAME),
            problem=problem,
        )
        return await anyio.to_thread.run_sync(shim_process.seen, info)

    def _only_main(self, exec_id: str) -> None:
        if exec_id:
            raise NotFound(f"process does not exist {exec_id}: not found", resource=f"exec {exec_id}")

    def _lost_error(self) -> OrlopError:
        return FailedPrecondition(
            f"task {self.id} is stopped: its shim was lost",
            reason="SHIM_LOST",
            resource=f"task {self.id}",
            hint=f"delete the task and start it anew; its shim was {self._program.binary}, "
            f"the shim's log is {self._folder.path / NAME}",
        )


def refuse_attach(stdio: Stdio) -> None:
    """:raises FailedPrecondition: streams are asked for that only our own shim keeps"""
    if stdio.attach or stdio.hold_stdin or stdio.log:
        raise no_attach()


def no_attach() -> OrlopError:
    """A foreign shim knows FIFOs, files and log drivers, and nobody who comes later."""
    return FailedPrecondition(
        "the shim of this runtime keeps no streams for clients that attach, and no log",
        reason="ATTACH_UNSUPPORTED",
        hint="run it through containerd's API with FIFOs (ctr run, dockerd), or use io.containerd.runc.v2",
    )


def _unmount(rootfs: Path) -> None:
    if rootfs.is_dir():
        with contextlib.suppress(OrlopError):
            mount.unmount(rootfs, detach=True)
