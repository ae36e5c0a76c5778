"""The gRPC faces of a shim: containerd's task service and our own beside it. Nothing but translation."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError

from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.containerd.task.v3 import shim_pb2 as task
from orlop_protos.containerd.task.v3 import shim_pb2_grpc as task_grpc
from orlop_protos.containerd.v1.types import task_pb2 as types
from orlop_protos.orlop.shim.v1 import shim_pb2 as api
from orlop_protos.orlop.shim.v1 import shim_pb2_grpc as api_grpc
from orlopd.plugin.errors import (
    AlreadyExists,
    Internal,
    InvalidArgument,
    NotFound,
    OrlopError,
)
from orlopd.plugin.runtime import TaskState
from orlopd.plugin.values import Mount

from ..journal import Journal
from ..stdio import decode
from ..wire import REASON_HEADER, VERSION, pack_error, to_timestamp
from .aside import aside
from .attach import attach
from .container import Container
from .logfile import PLAIN, LogKeeping
from .metrics import measure
from .process import Process
from .reaper import Reaper

log = logging.getLogger(__name__)

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]

_STATES: dict[TaskState, types.Status.ValueType] = {
    TaskState.CREATED: types.CREATED,
    TaskState.RUNNING: types.RUNNING,
    TaskState.STOPPED: types.STOPPED,
    TaskState.PAUSED: types.PAUSED,
    TaskState.PAUSING: types.PAUSING,
    TaskState.UNKNOWN: types.UNKNOWN,
}


class Method(Protocol):
    """A unary method of a service."""

    def __call__(self, service: Any, request: Any, context: Context, /) -> Coroutine[Any, Any, Any]: ...


def mapped(method: Method) -> Any:
    """Let errors of the house leave a method as statuses, and nothing else leave it."""

    @functools.wraps(method)
    async def call(self: Any, request: Any, context: Context) -> Any:
        try:
            return await method(self, request, context)
        except OrlopError as error:
            await abort(context, error)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("%s failed", method.__name__)  # type: ignore[attr-defined]
            await abort(context, Internal(f"the shim failed: {type(error).__name__}: {error}"))

    return call


async def abort(context: Context, error: OrlopError) -> None:
    """End a call with an error."""
    await context.abort(grpc.StatusCode[error.code], error.message, pack_error(error))


class Shim:
    """The containers of this shim and how it ends. A shim has one container, or those of a sandbox."""

    def __init__(
        self,
        namespace: str,
        root: Path,
        stall: float,
        reaper: Reaper,
        journal: Journal,
        keeping: LogKeeping = PLAIN,
    ) -> None:
        self.namespace = namespace
        self.root = root
        self.stall = stall
        self.keeping = keeping
        self.reaper = reaper
        self.journal = journal
        self.containers: dict[str, Container] = {}
        self.making: set[str] = set()
        self.used = False
        self.stop = asyncio.Event()
        self._running: set[asyncio.Task[Any]] = set()

    def container(self, id: str) -> Container:
        """:raises NotFound: it is not here"""
        if id not in self.containers:
            raise NotFound(f"container {id} not created: not found", resource=f"task {id}")
        return self.containers[id]

    def end_if_unused(self) -> None:
        """Shut down unless there ever was a container, or one is being made."""
        if not (self.used or self.making):
            self.journal.close()
            self.stop.set()

    async def whole(self, work: Awaitable[T]) -> T:
        """Do something to its end, even if the caller goes away in the middle."""
        running = asyncio.ensure_future(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return await asyncio.shield(running)


class TaskService(task_grpc.TaskServicer):
    """containerd.task.v3.Task."""

    def __init__(self, shim: Shim) -> None:
        self._shim = shim

    @mapped
    async def Create(self, request: task.CreateTaskRequest, context: Context) -> task.CreateTaskResponse:
        shim = self._shim
        if request.id in shim.containers or request.id in shim.making:
            raise AlreadyExists(f"task {request.id}: already exists", resource=f"task {request.id}")
        stdio = decode(request.stdin, request.stdout, request.stderr, request.terminal)
        options = _runtime_options(request.options)
        container = Container(
            shim.namespace,
            request.id,
            Path(request.bundle),
            options,
            stdio,
            shim.root,
            shim.reaper,
            shim.journal,
            shim.stall,
            shim.keeping,
        )
        mounts = [Mount(m.type, m.source, tuple(m.options), m.target) for m in request.rootfs]
        shim.making.add(request.id)
        try:
            await shim.whole(self._create(container, mounts, request))
        finally:
            shim.making.discard(request.id)
        return task.CreateTaskResponse(pid=container.main.pid)

    async def _create(
        self, container: Container, mounts: list[Mount], request: task.CreateTaskRequest
    ) -> None:
        await container.create(mounts, request.checkpoint, request.parent_checkpoint)
        self._shim.containers[container.id] = container
        self._shim.used = True

    @mapped
    async def Start(self, request: task.StartRequest, context: Context) -> task.StartResponse:
        container = self._shim.container(request.id)
        return task.StartResponse(pid=await self._shim.whole(container.start(request.exec_id)))

    @mapped
    async def State(self, request: task.StateRequest, context: Context) -> task.StateResponse:
        container = self._shim.container(request.id)
        process = container.process(request.exec_id)
        ended = process.ended if process.is_done else None
        _tell_reason(context, process)
        return task.StateResponse(
            id=request.exec_id or request.id,
            bundle=str(container.folder),
            pid=process.pid,
            status=_STATES[container.state(request.exec_id)],
            stdin=process.stdio.stdin,
            stdout=process.stdio.stdout,
            stderr=process.stdio.stderr,
            terminal=process.stdio.terminal,
            exit_status=ended.code if ended is not None else 0,
            exited_at=to_timestamp(ended.at) if ended is not None else None,
            exec_id=request.exec_id,
        )

    @mapped
    async def Delete(self, request: task.DeleteRequest, context: Context) -> task.DeleteResponse:
        container = self._shim.container(request.id)
        process = await self._shim.whole(container.delete(request.exec_id))
        if not request.exec_id:
            self._shim.containers.pop(request.id, None)
        _tell_reason(context, process)
        ended = process.ended
        return task.DeleteResponse(
            pid=process.pid,
            exit_status=ended.code if ended is not None else 0,
            exited_at=to_timestamp(ended.at) if ended is not None else None,
        )

    @mapped
    async def Pids(self, request: task.PidsRequest, context: Context) -> task.PidsResponse:
        processes: list[types.ProcessInfo] = []
        for entry in await self._shim.container(request.id).pids():
            info = None
            if entry.exec_id:
                details = oci_pb2.ProcessDetails(exec_id=entry.exec_id)
                info = AnyMessage(type_url=details.DESCRIPTOR.full_name, value=details.SerializeToString())
            processes.append(types.ProcessInfo(pid=entry.pid, info=info))
        return task.PidsResponse(processes=processes)

    @mapped
    async def Pause(self, request: task.PauseRequest, context: Context) -> Empty:
        await self._shim.whole(self._shim.container(request.id).pause())
        return Empty()

    @mapped
    async def Resume(self, request: task.ResumeRequest, context: Context) -> Empty:
        await self._shim.whole(self._shim.container(request.id).resume())
        return Empty()

    @mapped
    async def Checkpoint(self, request: task.CheckpointTaskRequest, context: Context) -> Empty:
        options = _unpack(request.options, oci_pb2.CheckpointOptions)
        await self._shim.whole(self._shim.container(request.id).checkpoint(request.path, options))
        return Empty()

    @mapped
    async def Kill(self, request: task.KillRequest, context: Context) -> Empty:
        container = self._shim.container(request.id)
        await self._shim.whole(container.kill(request.exec_id, request.signal, request.all))
        return Empty()

    @mapped
    async def Exec(self, request: task.ExecProcessRequest, context: Context) -> Empty:
        stdio = decode(request.stdin, request.stdout, request.stderr, request.terminal)
        self._shim.container(request.id).add_exec(request.exec_id, stdio, request.spec.value)
        return Empty()

    @mapped
    async def ResizePty(self, request: task.ResizePtyRequest, context: Context) -> Empty:
        self._shim.container(request.id).process(request.exec_id).resize(request.width, request.height)
        return Empty()

    @mapped
    async def CloseIO(self, request: task.CloseIORequest, context: Context) -> Empty:
        process = self._shim.container(request.id).process(request.exec_id)
        if request.stdin:
            process.close_stdin()
        return Empty()

    @mapped
    async def Update(self, request: task.UpdateTaskRequest, context: Context) -> Empty:
        await self._shim.whole(self._shim.container(request.id).update(request.resources.value))
        return Empty()

    @mapped
    async def Wait(self, request: task.WaitRequest, context: Context) -> task.WaitResponse:
        process = self._shim.container(request.id).process(request.exec_id)
        ended = await process.wait()
        _tell_reason(context, process)
        return task.WaitResponse(exit_status=ended.code, exited_at=to_timestamp(ended.at))

    @mapped
    async def Stats(self, request: task.StatsRequest, context: Context) -> task.StatsResponse:
        container = self._shim.container(request.id)
        if container.cgroup is None or container.main.state is TaskState.STOPPED:
            raise NotFound(f"cgroup of {request.id} does not exist: not found")
        return task.StatsResponse(stats=await aside(measure, container.cgroup))

    @mapped
    async def Connect(self, request: task.ConnectRequest, context: Context) -> task.ConnectResponse:
        container = self._shim.containers.get(request.id)
        pid = container.main.pid if container is not None else 0
        return task.ConnectResponse(shim_pid=os.getpid(), task_pid=pid, version=VERSION)

    @mapped
    async def Shutdown(self, request: task.ShutdownRequest, context: Context) -> Empty:
        shim = self._shim
        if request.now or not (shim.containers or shim.making):
            shim.journal.close()
            shim.stop.set()
        return Empty()


class ShimService(api_grpc.ShimServiceServicer):
    """orlop.shim.v1.ShimService."""

    def __init__(self, shim: Shim, grpc_address: Callable[[], Awaitable[str]]) -> None:
        """:param grpc_address: has gRPC served and says where"""
        self._shim = shim
        self._grpc_address = grpc_address

    async def Attach(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request_iterator: Any, context: Context
    ) -> None:
        try:
            first = await context.read()
            if first is grpc.aio.EOF or first.WhichOneof("request") != "options":
                raise InvalidArgument("the first message of an Attach must carry options")
            options: api.AttachOptions = first.options
            process = self._shim.container(options.id).process(options.exec_id)
            await attach(process, options, context)
        except OrlopError as error:
            await abort(context, error)

    async def Events(self, request: api.EventsRequest, context: Context) -> AsyncIterator[api.EventsResponse]:
        self._shim.journal.forget(request.after)
        async for record in self._shim.journal.follow(request.after):
            yield record

    async def NextEvents(self, request: api.NextEventsRequest, context: Context) -> api.NextEventsResponse:
        self._shim.journal.forget(request.after)
        return api.NextEventsResponse(events=await self._shim.journal.next(request.after))

    async def Serve(self, request: api.ServeRequest, context: Context) -> api.ServeResponse:
        return api.ServeResponse(address=await self._grpc_address())


def _tell_reason(context: Context, process: Process) -> None:
    if process.reason and process.is_done:
        context.set_trailing_metadata(((REASON_HEADER, process.reason.encode()),))


def _runtime_options(options: AnyMessage) -> oci_pb2.Options:
    if options.type_url.rpartition("/")[2] == "runtimeoptions.v1.Options":
        # The generic form names a config file for runtimes that have one; these have none.
        return oci_pb2.Options()
    return _unpack(options, oci_pb2.Options)


def _unpack(message: AnyMessage, kind: Callable[[], T]) -> T:
    unpacked = kind()
    name = message.type_url.rpartition("/")[2]
    wanted = unpacked.DESCRIPTOR.full_name  # type: ignore[attr-defined]
    if name and name != wanted:
        raise InvalidArgument(f"options of type {name[:100]!r} are not understood: want {wanted}")
    try:
        unpacked.ParseFromString(message.value)  # type: ignore[attr-defined]
    except DecodeError as error:
        raise InvalidArgument(f"malformed {wanted}: {error}") from error
    return unpacked
