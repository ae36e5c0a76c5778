"""A shim that serves version 3 of the task service by ttrpc, and nothing else. Its containers contain
nothing: what their spec names runs on the machine as it is. Knows containerd's command line for shims.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from orlop_plugins.ttrpc import Handler, TtrpcClient, TtrpcServer
from orlop_protos.containerd.events import task_pb2 as events
from orlop_protos.containerd.services.events.ttrpc.v1 import events_pb2 as forward
from orlop_protos.containerd.task.v3 import shim_pb2 as v3
from orlop_protos.containerd.v1.types import task_pb2 as types
from orlopd.plugin.errors import NotFound


class Process:
    """A process that is there before it runs, as containerd has them."""

    def __init__(self, process: dict[str, Any], stdout: str) -> None:
        self._words = process["args"]
        self._stdout = stdout
        self.process: asyncio.subprocess.Process | None = None
        self.started = asyncio.Event()
        self.code = 0
        self.at = 0

    async def start(self) -> None:
        with await asyncio.to_thread(Path(self._stdout or os.devnull).open, "wb") as out:
            self.process = await asyncio.create_subprocess_exec(*self._words, stdout=out)
        self.started.set()

    async def wait(self) -> None:
        await self.started.wait()
        assert self.process is not None
        code = await self.process.wait()
        self.code, self.at = code if code >= 0 else 128 - code, self.at or int(time.time())

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    @property
    def status(self) -> int:
        if self.process is None:
            return types.CREATED
        return types.RUNNING if self.process.returncode is None else types.STOPPED


class Shim:
    """One task."""

    def __init__(self, namespace: str, id: str, publish: TtrpcClient) -> None:
        self.over = asyncio.Event()
        self._namespace, self._id, self._publish = namespace, id, publish
        self._processes: dict[str, Process] = {}
        self._ends: set[asyncio.Task[None]] = set()

    async def create(self, request: v3.CreateTaskRequest) -> v3.CreateTaskResponse:
        spec = json.loads((Path(request.bundle) / "config.json").read_bytes())
        self._processes[""] = Process(spec["process"], request.stdout)
        await self._tell("create", events.TaskCreate(container_id=self._id, bundle=request.bundle))
        return v3.CreateTaskResponse()

    async def exec(self, request: v3.ExecProcessRequest) -> Empty:
        self._processes[request.exec_id] = Process(json.loads(request.spec.value), request.stdout)
        return Empty()

    async def start(self, request: v3.StartRequest) -> v3.StartResponse:
        process = self._find(request.exec_id)
        await process.start()
        if not request.exec_id:
            await self._tell("start", events.TaskStart(container_id=self._id, pid=process.pid))
        task = asyncio.create_task(self._until_end(request.exec_id or self._id, process))
        self._ends.add(task)
        return v3.StartResponse(pid=process.pid)

    async def state(self, request: v3.StateRequest) -> v3.StateResponse:
        process = self._find(request.exec_id)
        state = v3.StateResponse(id=self._id, exec_id=request.exec_id, pid=process.pid)
        state.status, state.exit_status = process.status, process.code  # type: ignore[assignment]
        state.exited_at.seconds = process.at
        return state

    async def wait(self, request: v3.WaitRequest) -> v3.WaitResponse:
        process = self._find(request.exec_id)
        await process.wait()
        return _with_time(v3.WaitResponse(exit_status=process.code), process)

    async def kill(self, request: v3.KillRequest) -> Empty:
        process = self._find(request.exec_id)
        if process.status != types.RUNNING or process.process is None:
            raise NotFound("process already finished: not found")
        process.process.send_signal(request.signal)
        return Empty()

    async def pids(self, request: v3.PidsRequest) -> v3.PidsResponse:
        alive = [each.pid for each in self._processes.values() if each.status == types.RUNNING]
        return v3.PidsResponse(processes=[types.ProcessInfo(pid=pid) for pid in alive])

    async def delete(self, request: v3.DeleteRequest) -> v3.DeleteResponse:
        process = self._find(request.exec_id)
        del self._processes[request.exec_id]
        if not request.exec_id:
            await asyncio.gather(*self._ends)
            await self._tell("delete", events.TaskDelete(container_id=self._id, exit_status=process.code))
        return _with_time(v3.DeleteResponse(pid=process.pid, exit_status=process.code), process)

    async def connect(self, request: v3.ConnectRequest) -> v3.ConnectResponse:
        return v3.ConnectResponse(shim_pid=os.getpid(), task_pid=self._find("").pid, version="3")

    async def shutdown(self, request: v3.ShutdownRequest) -> Empty:
        self.over.set()
        return Empty()

    async def _until_end(self, id: str, process: Process) -> None:
        await process.wait()
        end = events.TaskExit(container_id=self._id, id=id, pid=process.pid, exit_status=process.code)
        await self._tell("exit", end)

    async def _tell(self, word: str, event: Any) -> None:
        packed = AnyMessage(type_url=event.DESCRIPTOR.full_name, value=event.SerializeToString())
        request = forward.ForwardRequest()
        request.envelope.timestamp.GetCurrentTime()
        request.envelope.namespace, request.envelope.topic = self._namespace, f"/tasks/{word}"
        request.envelope.event.CopyFrom(packed)
        service = "containerd.services.events.ttrpc.v1.Events"
        await self._publish.call(service, "Forward", request, Empty, deadline=10)

    def _find(self, exec_id: str) -> Process:
        if exec_id not in self._processes:
            raise NotFound(f"process {exec_id!r}: not found")
        return self._processes[exec_id]


def _with_time(reply: Any, process: Process) -> Any:
    reply.exited_at.seconds = process.at
    return reply


async def serve(listener: socket.socket, namespace: str, id: str) -> None:
    shim = Shim(namespace, id, await TtrpcClient.connect(os.environ["TTRPC_ADDRESS"]))
    asked = {
        "Create": v3.CreateTaskRequest, "Exec": v3.ExecProcessRequest, "Start": v3.StartRequest,
        "State": v3.StateRequest, "Wait": v3.WaitRequest, "Kill": v3.KillRequest, "Pids": v3.PidsRequest,
        "Delete": v3.DeleteRequest, "Connect": v3.ConnectRequest, "Shutdown": v3.ShutdownRequest,
    }  # fmt: skip
    methods = {
        ("containerd.task.v3.Task", name): Handler(request, getattr(shim, name.lower()))
        for name, request in asked.items()
    }
    async with TtrpcServer(listener, methods):
        await shim.over.wait()
        await asyncio.sleep(0.05)  # the answer to Shutdown is on its way


def main(words: list[str]) -> None:
    options = dict(zip(words[0:-1:2], words[1::2], strict=False))
    namespace, name, action = options["-namespace"], options["-id"], words[-1]
    if action == "serve":
        asyncio.run(serve(socket.socket(fileno=int(options["-socket"])), namespace, name))
    elif action == "delete":
        sys.stdout.buffer.write(v3.DeleteResponse(exit_status=137).SerializeToString())
    elif action == "start":
        listener = socket.socket(socket.AF_UNIX)
        place = Path.cwd() / "v3.sock"
        listener.bind(str(place))
        listener.listen()
        line = [sys.executable, __file__, "-namespace", namespace, "-id", name]
        with Path("v3.log").open("wb") as log:
            subprocess.Popen(
                [*line, "-socket", str(listener.fileno()), "serve"],
                pass_fds=[listener.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        sys.stdout.write(json.dumps({"version": 3, "address": f"unix://{place}", "protocol": "ttrpc"}))


if __name__ == "__main__":
    main(sys.argv[1:])
