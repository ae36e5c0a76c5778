"""containerd.services.tasks.v1."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from google.protobuf import any_pb2, empty_pb2
from google.protobuf.message import DecodeError

from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from orlop_protos.containerd.types import metrics_pb2
from orlop_protos.containerd.v1.types import task_pb2
from orlopd.core.core import Core
from orlopd.core.filters import Adaptor, parse
from orlopd.plugin.errors import InvalidArgument, NotFound, OrlopError
from orlopd.plugin.runtime import ExecSpec, Exit, ProcessStatus, Stdio, Task, TaskState
from orlopd.plugin.values import now
from orlopd.services.convert import (
    from_any,
    from_descriptor,
    from_mounts,
    to_any,
    to_descriptor,
    to_timestamp,
)
from orlopd.services.scope import scope_of

log = logging.getLogger("orlopd.tasks")

_STATES = {
    TaskState.UNKNOWN: task_pb2.UNKNOWN,
    TaskState.CREATED: task_pb2.CREATED,
    TaskState.RUNNING: task_pb2.RUNNING,
    TaskState.STOPPED: task_pb2.STOPPED,
    TaskState.PAUSED: task_pb2.PAUSED,
    TaskState.PAUSING: task_pb2.PAUSING,
}


class TasksService(tasks_pb2_grpc.TasksServicer):
    """The running side of containers."""

    def __init__(self, core: Core) -> None:
        self._tasks = core.tasks
        self._containers = core.containers

    def register(self, server: Any) -> Sequence[str]:
        tasks_pb2_grpc.add_TasksServicer_to_server(self, server)
        return [tasks_pb2.DESCRIPTOR.services_by_name["Tasks"].full_name]

    async def Create(self, request: Any, context: Any) -> tasks_pb2.CreateTaskResponse:
        scope = scope_of(context)
        options = from_any(request.options) if request.HasField("options") else None
        checkpoint = _image_path(request.options, oci_pb2.Options, "criu_image_path")
        blob = from_descriptor(request.checkpoint) if request.HasField("checkpoint") else ""
        task = await self._tasks.create(
            scope,
            request.container_id,
            rootfs=from_mounts(request.rootfs),
            stdio=_stdio(request),
            options=options,
            checkpoint=checkpoint or blob,
            runtime=request.runtime_path,
        )
        status = await task.status()
        return tasks_pb2.CreateTaskResponse(container_id=request.container_id, pid=status.pid)

    async def Start(self, request: Any, context: Any) -> tasks_pb2.StartResponse:
        task = await self._task(request, context)
        return tasks_pb2.StartResponse(pid=await task.start(request.exec_id))

    async def Delete(self, request: Any, context: Any) -> tasks_pb2.DeleteResponse:
        task = await self._task(request, context)
        pid = (await task.status()).pid
        return _deleted("", pid, await task.delete())

    async def DeleteProcess(self, request: Any, context: Any) -> tasks_pb2.DeleteResponse:
        task = await self._task(request, context)
        pid = (await task.status(request.exec_id)).pid
        return _deleted(request.exec_id, pid, await task.delete(request.exec_id))

    async def Get(self, request: Any, context: Any) -> tasks_pb2.GetResponse:
        task = await self._task(request, context)
        return tasks_pb2.GetResponse(process=_process(await task.status(request.exec_id)))

    async def List(self, request: Any, context: Any) -> tasks_pb2.ListTasksResponse:
        response = tasks_pb2.ListTasksResponse()
        for task in await self._tasks.list(scope_of(context)):
            try:
                response.tasks.append(_process(await task.status()))
            except NotFound:
                continue  # deleted in between
            except OrlopError as error:
                log.warning("task %s does not tell its state: %s", task.id, error)
        return response

    async def Kill(self, request: Any, context: Any) -> empty_pb2.Empty:
        task = await self._task(request, context)
        await task.kill(request.signal, request.exec_id, all=request.all)
        return empty_pb2.Empty()

    async def Exec(self, request: Any, context: Any) -> empty_pb2.Empty:
        if not request.exec_id:
            raise InvalidArgument("exec id cannot be empty")
        task = await self._task(request, context)
        await task.exec(ExecSpec(request.exec_id, request.spec.value, _stdio(request)))
        return empty_pb2.Empty()

    async def ResizePty(self, request: Any, context: Any) -> empty_pb2.Empty:
        task = await self._task(request, context)
        await task.resize(request.width, request.height, request.exec_id)
        return empty_pb2.Empty()

    async def CloseIO(self, request: Any, context: Any) -> empty_pb2.Empty:
        task = await self._task(request, context)
        if request.stdin:
            await task.close_stdin(request.exec_id)
        return empty_pb2.Empty()

    async def Pause(self, request: Any, context: Any) -> empty_pb2.Empty:
        await (await self._task(request, context)).pause()
        return empty_pb2.Empty()

    async def Resume(self, request: Any, context: Any) -> empty_pb2.Empty:
        await (await self._task(request, context)).resume()
        return empty_pb2.Empty()

    async def ListPids(self, request: Any, context: Any) -> tasks_pb2.ListPidsResponse:
        response = tasks_pb2.ListPidsResponse()
        for entry in await (await self._task(request, context)).pids():
            info = response.processes.add(pid=entry.pid)
            if entry.exec_id:
                details = oci_pb2.ProcessDetails(exec_id=entry.exec_id)
                info.info.type_url = details.DESCRIPTOR.full_name
                info.info.value = details.SerializeToString()
        return response

    async def Checkpoint(self, request: Any, context: Any) -> tasks_pb2.CheckpointTaskResponse:
        task = await self._task(request, context)
        options = from_any(request.options)
        path = _image_path(request.options, oci_pb2.CheckpointOptions, "image_path")
        if path:
            await task.checkpoint(path, options)
            return tasks_pb2.CheckpointTaskResponse()
        scope = scope_of(context)
        container = await self._containers.get(scope, task.id)
        spec = to_any(container.spec) or any_pb2.Any()
        made = await self._tasks.checkpoint(scope, task, options, spec.SerializeToString())
        return tasks_pb2.CheckpointTaskResponse(descriptors=map(to_descriptor, made))

    async def Update(self, request: Any, context: Any) -> empty_pb2.Empty:
        task = await self._task(request, context)
        await task.update(request.resources.value, dict(request.annotations))
        return empty_pb2.Empty()

    async def Metrics(self, request: Any, context: Any) -> tasks_pb2.MetricsResponse:
        wanted = parse(list(request.filters))
        response = tasks_pb2.MetricsResponse()
        for task in await self._tasks.list(scope_of(context)):
            if not wanted.match(_adapt(task)):
                continue
            at = now()
            try:
                stats = await task.stats()
            except OrlopError as error:
                if not isinstance(error, NotFound):
                    log.warning("no metrics of task %s: %s", task.id, error)
                continue
            metric = metrics_pb2.Metric(timestamp=to_timestamp(at), id=task.id, data=to_any(stats))
            response.metrics.append(metric)
        return response

    async def Wait(self, request: Any, context: Any) -> tasks_pb2.WaitResponse:
        task = await self._task(request, context)
        end = await task.wait(request.exec_id)
        return tasks_pb2.WaitResponse(exit_status=end.code, exited_at=to_timestamp(end.at))

    async def _task(self, request: Any, context: Any) -> Task:
        """The task that a request names. A container that is missing is what is said first."""
        scope = scope_of(context)
        try:
            return await self._tasks.get(scope, request.container_id)
        except NotFound:
            await self._containers.get(scope, request.container_id)
            raise


def _adapt(task: Task) -> Adaptor:
    facts = {"id": task.id, "namespace": task.namespace}
    return lambda path: facts.get(path[0]) if len(path) == 1 else None


def _stdio(request: Any) -> Stdio:
    return Stdio(request.stdin, request.stdout, request.stderr, request.terminal)


def _process(status: ProcessStatus) -> task_pb2.Process:
    end = status.exit
    return task_pb2.Process(
        id=status.exec_id or status.id,
        pid=status.pid,
        status=_STATES[status.state],
        stdin=status.stdio.stdin,
        stdout=status.stdio.stdout,
        stderr=status.stdio.stderr,
        terminal=status.stdio.terminal,
        exit_status=end.code if end is not None else 0,
        exited_at=to_timestamp(end.at) if end is not None else None,
    )


def _deleted(id: str, pid: int, end: Exit) -> tasks_pb2.DeleteResponse:
    return tasks_pb2.DeleteResponse(id=id, pid=pid, exit_status=end.code, exited_at=to_timestamp(end.at))


def _image_path(options: any_pb2.Any, kind: Any, field: str) -> str:
    """The directory that a client's options name for a checkpoint; "" where they name none."""
    if options.type_url.rpartition("/")[2] != kind.DESCRIPTOR.full_name:
        return ""
    try:
        return getattr(kind.FromString(options.value), field)
    except DecodeError as error:
        raise InvalidArgument(f"malformed options: {error}: invalid argument") from error
