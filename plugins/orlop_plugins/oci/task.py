"""A task as the daemon holds it: a client of its shim while that lives, a record of its end afterwards."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
from google.protobuf.any_pb2 import Any as AnyMessage

from orlop_protos.containerd.events import task_pb2 as events
from orlop_protos.containerd.task.v3 import shim_pb2 as task
from orlop_protos.orlop.shim.v1 import shim_pb2 as api
from orlopd.plugin.errors import FailedPrecondition, NotFound, OrlopError, Unavailable
from orlopd.plugin.runtime import (
    Attachment,
    ExecSpec,
    Exit,
    ProcessEntry,
    ProcessStatus,
    TaskEvent,
    TaskState,
)
from orlopd.plugin.shim_info import ShimInfo
from orlopd.plugin.values import TypedBytes

from . import journal, shim_process
from .attachment import ShimAttachment
from .cleanup import Lost, bury, clean_up, story
from .client import client_of
from .convert import entry_of, event_of, exec_request, exit_of, status_of, update_request
from .folder import Folder, Record, check_id
from .shimlog import NAME, explained, keep, pointing
from .shims import ShimProcess, remove_sockets
from .wire import to_timestamp

log = logging.getLogger(__name__)

_SHORT = 10.0
_ANSWER = 3.0
_DYING = 0.5
_END_PATIENCE = 3.0
_RETRY = 0.05


class ShimTask:
    """One task. See :class:`orlopd.plugin.runtime.Task` for what its methods promise."""

    def __init__(self, folder: Folder, record: Record, shim: ShimProcess | None, deadline: float) -> None:
        self.deleted = anyio.Event()
        self._folder = folder
        self._record = record
        self._shim = shim
        self._deadline = deadline
        self._client = client_of(record.address, record.protocol)
        self._dead = shim is None
        self._ending = False
        self._lost: Lost | None = None
        self._over = anyio.Event()
        self._attached = 0
        self._tail: list[journal.Record] = []
        self._deleting = anyio.Lock()
        self._burying = anyio.Lock()
        self._watching = anyio.CancelScope()

    @property
    def namespace(self) -> str:
        return self._record.namespace

    @property
    def id(self) -> str:
        return self._record.id

    async def make(self, request: task.CreateTaskRequest) -> None:
        """Have the shim create the container."""
        await self._call("Create", request)

    async def start(self, exec_id: str = "") -> int:
        try:
            reply, _ = await self._call("Start", task.StartRequest(id=self.id, exec_id=exec_id))
        except OrlopError as error:
            if exec_id:
                raise
            # Whoever cannot start a container removes it, and the shim's folder with it.
            raise pointing(error, await self.keep_log(error)) from error
        return reply.pid

    async def exec(self, spec: ExecSpec) -> None:
        check_id("exec id", spec.id)
        await self._call("Exec", exec_request(self.id, spec), _SHORT)

    async def status(self, exec_id: str = "") -> ProcessStatus:
        lost = await self._check()
        if lost is None:
            try:
                reply, trailing = await self._call(
                    "State", task.StateRequest(id=self.id, exec_id=exec_id), _SHORT
                )
                return status_of(self.id, exec_id, reply, trailing, self._record.stdio)
            except (Unavailable, FailedPrecondition):
                lost = await self._check()
                if lost is None:
                    raise
        end = lost.end_of(exec_id)
        bundle = str(self._folder.path)
        return ProcessStatus(self.id, "", lost.pid, TaskState.STOPPED, self._record.stdio, end, bundle)

    async def wait(self, exec_id: str = "") -> Exit:
        lost = await self._check()
        if lost is not None:
            return lost.end_of(exec_id)
        try:
            reply, trailing = await self._call("Wait", task.WaitRequest(id=self.id, exec_id=exec_id), None)
            return exit_of(reply, trailing)
        except (Unavailable, FailedPrecondition):
            lost = await self._check()
            if lost is None:
                raise
            return lost.end  # for an exec too: it was alive a moment ago, and ended as the container did

    async def kill(self, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        lost = await self._check()
        if lost is not None:
            lost.end_of(exec_id)
            raise NotFound("process already finished: not found", reason="PROCESS_FINISHED")
        await self._call("Kill", task.KillRequest(id=self.id, exec_id=exec_id, signal=signal, all=all))

    async def delete(self, exec_id: str = "") -> Exit:
        if exec_id:
            lost = await self._check()
            if lost is not None:
                return lost.end_of(exec_id)
            return exit_of(*await self._call("Delete", task.DeleteRequest(id=self.id, exec_id=exec_id)))
        async with self._deleting:
            if self.deleted.is_set():
                raise self._deleted_error()
            end = await self._delete_container() if await self._check() is None else None
            with anyio.CancelScope(shield=True):
                if end is None:
                    end = await self._delete_lost()
                else:
                    await self._end_shim()
                await self._forget()
        assert end is not None
        return end

    async def pids(self) -> Sequence[ProcessEntry]:
        if await self._check() is not None:
            return []
        reply, _ = await self._call("Pids", task.PidsRequest(id=self.id), _SHORT)
        return [entry_of(item) for item in reply.processes]

    async def pause(self) -> None:
        await self._call("Pause", task.PauseRequest(id=self.id))

    async def resume(self) -> None:
        await self._call("Resume", task.ResumeRequest(id=self.id))

    async def resize(self, width: int, height: int, exec_id: str = "") -> None:
        request = task.ResizePtyRequest(id=self.id, exec_id=exec_id, width=width, height=height)
        await self._call("ResizePty", request, _SHORT)

    async def close_stdin(self, exec_id: str = "") -> None:
        await self._call("CloseIO", task.CloseIORequest(id=self.id, exec_id=exec_id, stdin=True), _SHORT)

    async def stats(self) -> TypedBytes:
        if await self._check() is not None:
            raise NotFound(f"cgroup of {self.id} does not exist: not found")
        reply, _ = await self._call("Stats", task.StatsRequest(id=self.id), _SHORT)
        return TypedBytes(reply.stats.type_url, reply.stats.value)

    async def update(self, resources: bytes, annotations: Mapping[str, str]) -> None:
        await self._call("Update", update_request(self.id, resources, annotations))

    async def checkpoint(self, path: str, options: TypedBytes | None) -> None:
        packed = AnyMessage(type_url=options.type_url, value=options.value) if options is not None else None
        await self._call("Checkpoint", task.CheckpointTaskRequest(id=self.id, path=path, options=packed))

    @asynccontextmanager
    async def attach(
        self, exec_id: str = "", *, stdin: bool = False, scrollback: bool = False
    ) -> AsyncIterator[Attachment]:
        if await self._check() is not None:
            raise self._lost_error()
        self._attached += 1
        try:
            options = api.AttachOptions(id=self.id, exec_id=exec_id, stdin=stdin, scrollback=scrollback)
            call, first = await self._client.attach(options)
            with closing(call):
                yield ShimAttachment(call, first.terminal, stdin)
        finally:
            self._attached -= 1

    async def events(self, after: int = 0) -> AsyncIterator[TaskEvent]:
        while not (self._dead or self._over.is_set()):
            try:
                async with aclosing(self._client.events(after)) as records:
                    async for record in records:
                        after = record.sequence
                        yield event_of(record)
            except OrlopError as error:
                log.debug("events of task %s: %s", self.id, error)
            with anyio.move_on_after(_RETRY):
                await self._over.wait()
        if not self.deleted.is_set() and await self._check() is not None:
            for event in self._from(await anyio.to_thread.run_sync(journal.read, self._journal), after):
                after = event.sequence
                yield event
        await self.deleted.wait()
        for event in self._from(self._tail, after):
            yield event

    async def watch(self) -> None:
        """Notice the shim's death and clean up after it. Returns when that is done or the task is deleted."""
        with self._watching:
            if self._shim is not None:
                await self._shim.gone()
            if not self._ending:
                self._dead = True
                await self._check()

    async def exists(self) -> bool:
        """Whether the shim has the container. True where it does not answer in time."""
        try:
            await self._call("State", task.StateRequest(id=self.id), _SHORT)
        except NotFound:
            return False
        except OrlopError:
            return True
        return True

    async def abandon(self) -> None:
        """Undo everything: for a task that was never whole, or that was deleted but for its remains."""
        with anyio.CancelScope(shield=True):
            self._ending = True
            if self._shim is not None:
                self._shim.kill()
                await self._shim.gone()
            await anyio.to_thread.run_sync(clean_up, self._folder, self._record)
            await self._forget()

    async def aclose(self) -> None:
        """Let go of the shim, which lives on."""
        self._watching.cancel()
        await self._client.close()
        if self._shim is not None:
            self._shim.close()
            self._shim = None

    async def shim_info(self) -> ShimInfo:
        """See :meth:`orlopd.plugin.shim_info.ShimTask.shim_info`."""
        lost, shim = await self._check(), self._shim
        pid = shim.pid if shim is not None and lost is None else 0
        version, task_pid, problem = "", 0, "the shim is gone" if lost is not None else ""
        if lost is None:
            try:
                reply, _ = await self._call("Connect", task.ConnectRequest(id=self.id), _ANSWER)
                version, task_pid = reply.version, reply.task_pid
            except OrlopError as error:
                problem = error.message

        info = ShimInfo(
            runtime_binary=self._record.binary,
            pid=pid,
            task_pid=task_pid,
            address=self._record.address,
            protocol="grpc" if self._record.protocol == "grpc" else "ttrpc",
            version=version,
            bundle=str(self._folder.path),
            log=str(self._log),
            problem=problem,
        )
        return await anyio.to_thread.run_sync(shim_process.seen, info)

    async def keep_log(self, error: BaseException) -> Path:
        """Keep the shim's log for when the task is gone; where."""
        state = self._folder.path.parents[2]
        return await keep(self._folder.path, state, f"{self.namespace}.{self.id}", error)

    @property
    def _log(self) -> Path:
        return self._folder.path / NAME

    @property
    def _journal(self) -> Path:
        return self._folder.path / journal.FILE

    async def _delete_container(self) -> Exit | None:
        """Have the shim delete its container; None where the shim was lost over it."""
        try:
            return exit_of(*await self._call("Delete", task.DeleteRequest(id=self.id)))
        except NotFound:
            # An earlier call got this far and was interrupted; the journal knows the rest.
            _, end, _ = await anyio.to_thread.run_sync(story, self._folder, self._record)
            if end is None:
                raise
            return end
        except (Unavailable, FailedPrecondition):
            if await self._check() is None:
                raise
            return None

    async def _delete_lost(self) -> Exit:
        lost = await self._check()
        assert lost is not None
        message = events.TaskDelete(
            container_id=self.id, pid=lost.pid, exit_status=lost.end.code, exited_at=to_timestamp(lost.end.at)
        )
        await anyio.to_thread.run_sync(journal.append, self._journal, message)
        path = await self.keep_log(self._lost_error())
        log.info("the log of the lost shim of task %s/%s is kept: %s", self.namespace, self.id, path)
        return lost.end

    async def _end_shim(self) -> None:
        """End a shim that has nothing any more but its journal, which is written.

        Attached clients get what is on its way to them; without any there is nothing to ask the shim for.
        """
        self._ending = True
        shim = self._shim
        assert shim is not None
        if self._attached:
            self._client.take_all()
            try:
                await self._client.ask("Shutdown", task.ShutdownRequest(id=self.id), _SHORT)
                await shim.end(_END_PATIENCE)
            except OrlopError as error:
                log.warning("the shim of task %s does not shut down: %s", self.id, error)
        shim.kill()
        await shim.gone()
        remove_sockets(self._record.address)

    async def _forget(self) -> None:
        self._tail = await anyio.to_thread.run_sync(journal.read, self._journal)
        await anyio.to_thread.run_sync(self._folder.remove)
        self.deleted.set()
        self._over.set()
        await self._client.close(grace=_END_PATIENCE)
        self._watching.cancel()
        if self._shim is not None:
            self._shim.close()
            self._shim = None

    async def _check(self) -> Lost | None:
        """What is left of the task if its shim has died; everything is cleaned up then."""
        if self._dead and self._lost is None:
            async with self._burying:
                if self._lost is None:
                    self._lost = await anyio.to_thread.run_sync(bury, self._folder, self._record)
                    self._over.set()
        return self._lost

    async def _call(self, name: str, request: Any, deadline: float | None = -1) -> tuple[Any, Any]:
        if await self._check() is not None:
            raise self._lost_error()
        if self.deleted.is_set():
            raise self._deleted_error()
        with explained(self._log):
            try:
                limit = self._deadline if deadline == -1 else deadline
                return await self._client.ask(name, request, limit)
            except Unavailable:
                await self._see_whether_it_died()
                if await self._check() is not None:
                    raise self._lost_error() from None
                if self._ending:  # the shim was ended with its task, while this call was under way
                    raise self._deleted_error() from None
                raise

    async def _see_whether_it_died(self) -> None:
        if self._shim is None or self._ending:
            return
        with anyio.move_on_after(_DYING):
            await self._shim.gone()
            self._dead = not self._ending

    def _deleted_error(self) -> OrlopError:
        return NotFound(f"task {self.id} not found: not found", resource=f"task {self.id}")

    def _lost_error(self) -> OrlopError:
        return FailedPrecondition(
            f"task {self.id} is stopped: its shim was lost",
            reason="SHIM_LOST",
            resource=f"task {self.id}",
            hint=f"delete the task and start it anew; the shim's log is {self._folder.path}/shim.log",
        )

    def _from(self, records: Sequence[journal.Record], after: int) -> list[TaskEvent]:
        reason = self._lost.end.reason if self._lost is not None else ""
        return [
            event_of(record, reason if record.topic == "/tasks/exit" else "")
            for record in records
            if record.sequence > after
        ]
