"""The pretended ContainerService."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from orlop_protos.orlop.engine.v1 import containers_pb2 as c
from orlop_protos.orlop.engine.v1 import containers_pb2_grpc
from orlop_protos.orlop.engine.v1 import stream_pb2 as s
from tests.clients.engine.base import PROGRAMS, Base, Box, Process, Refusal, now
from tests.clients.engine.images import collect, steps


class Containers(Base, containers_pb2_grpc.ContainerServiceServicer):
    def make(self, context: Any, spec: c.ContainerSpec) -> Box:
        message = c.Container(
            id=uuid.uuid4().hex,
            name=spec.name or f"box{len(self.world(context).boxes)}",
            image=spec.image,
            state=c.CONTAINER_STATE_CREATED,
            args=[*spec.entrypoint.args, *spec.args],
            created_at=now(),
            terminal=spec.terminal,
            auto_remove=spec.auto_remove,
            spec=spec,
        )
        box = self.world(context).boxes[message.id] = Box(message)
        return box

    def begin(self, context: Any, box: Box) -> Process:
        args = list(box.message.args) or ["echo", "nothing"]
        if args[0] not in PROGRAMS:
            found = args[0] == "README"
            raise Refusal(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'cannot run "{args[0]}"',
                "COMMAND_NOT_EXECUTABLE" if found else "COMMAND_NOT_FOUND",
                "see what the image has",
            )
        process = box.process = Process(args, box.message.terminal, box.message.spec.stdin)
        box.message.state = c.CONTAINER_STATE_RUNNING
        box.message.started_at.CopyFrom(now())
        self.spawn(self.live(context, box, process))
        return process

    async def live(self, context: Any, box: Box, process: Process) -> None:
        work = asyncio.create_task(process.run())
        await process.ended.wait()
        work.cancel()
        box.message.state = c.CONTAINER_STATE_STOPPED
        assert process.exit
        box.message.exit.CopyFrom(process.exit)

    async def converse(
        self, context: Any, process: Process, requests: AsyncIterator[Any]
    ) -> AsyncIterator[s.StreamOutput]:
        async def listen() -> None:
            async for request in requests:
                told = request.input
                match told.WhichOneof("input"):
                    case "stdin":
                        process.told.put_nowait(("stdin", told.stdin))
                    case "stdin_end":
                        self.keep(context, stdin_end=True)
                        process.told.put_nowait(("end", None))
                    case "resize":
                        self.keep(context, resize=[told.resize.width, told.resize.height])
                        process.told.put_nowait(("resize", (told.resize.height, told.resize.width)))
                    case "signal":
                        process.signal(told.signal.name)
                    case "detach":
                        self.keep(context, detach=True)
                        process.said.put_nowait(s.StreamOutput(detached=s.Detached()))

        listener = asyncio.create_task(listen())
        try:
            while True:
                said = await process.said.get()
                yield said
                if said.WhichOneof("output") in ("exit", "detached"):
                    return
        finally:
            listener.cancel()

    async def Run(self, request_iterator: Any, context: Any) -> AsyncIterator[c.RunResponse]:
        options = (await anext(request_iterator)).options
        spec = options.spec
        self.keep(
            context,
            run=spec.image or spec.rootfs or spec.bundle or "scratch",
            args=list(spec.args),
            env=list(spec.env),
            mounts=[[m.source, m.target, m.read_only, list(m.options)] for m in spec.mounts],
            memory=spec.resources.memory_bytes,
            nano_cpus=spec.resources.nano_cpus,
            network=spec.network,
            window=[options.window.width, options.window.height],
            pull=options.pull,
            entrypoint=list(spec.entrypoint.args) if spec.HasField("entrypoint") else None,
            labels=dict(spec.labels),
            detach=options.detach,
            rm=spec.auto_remove,
            on_cancel=options.on_cancel,
            stdin=spec.stdin,
            terminal=spec.terminal,
        )
        if spec.image == "missing":
            await self.refuse(
                context, Refusal(grpc.StatusCode.NOT_FOUND, "missing: no such image", "IMAGE_NOT_FOUND")
            )
        if spec.image in ("pulled", "slow"):
            try:
                async for progress in steps(spec.image):
                    yield c.RunResponse(progress=progress)
            except asyncio.CancelledError:
                self.keep(context, cancelled=spec.image)
                raise
        box = self.make(context, spec)
        yield c.RunResponse(created=c.ContainerCreated(id=box.message.id, name=box.message.name))
        try:
            process = self.begin(context, box)
        except Refusal as refusal:
            await self.refuse(context, refusal)
            raise
        yield c.RunResponse(started=c.ProcessStarted(pid=42))
        if not options.detach:
            try:
                async for said in self.converse(context, process, request_iterator):
                    yield c.RunResponse(output=said)
            except asyncio.CancelledError:
                self.keep(context, left=True)
                raise

    async def Create(self, request: c.CreateRequest, context: Any) -> c.CreateResponse:
        return c.CreateResponse(container=self.make(context, request.spec).message)

    async def Start(self, request_iterator: Any, context: Any) -> AsyncIterator[c.StartResponse]:
        options = (await anext(request_iterator)).options
        box = await self.box(context, options.container)
        try:
            process = self.begin(context, box)
        except Refusal as refusal:
            await self.refuse(context, refusal)
            raise
        yield c.StartResponse(started=c.ProcessStarted(pid=43))
        if options.attach:
            async for said in self.converse(context, process, request_iterator):
                yield c.StartResponse(output=said)

    async def Attach(self, request_iterator: Any, context: Any) -> AsyncIterator[c.AttachResponse]:
        options = (await anext(request_iterator)).options
        box = await self.box(context, options.container)
        if box.process is None or box.process.exit:
            await self.refuse(context, Refusal(grpc.StatusCode.FAILED_PRECONDITION, "it does not run"))
        assert box.process
        yield c.AttachResponse(attached=c.Attached(terminal=box.message.terminal))
        async for said in self.converse(context, box.process, request_iterator):
            yield c.AttachResponse(output=said)

    async def Exec(self, request_iterator: Any, context: Any) -> AsyncIterator[c.ExecResponse]:
        options = (await anext(request_iterator)).options
        box = await self.box(context, options.container)
        self.keep(
            context, exec=list(options.args), user=options.user, stdin=options.stdin, env=list(options.env)
        )
        if options.args[0] not in PROGRAMS:
            await self.refuse(
                context,
                Refusal(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f'cannot run "{options.args[0]}"',
                    "COMMAND_NOT_FOUND",
                ),
            )
        process = Process(list(options.args), options.terminal, options.stdin)
        work = asyncio.create_task(process.run())
        yield c.ExecResponse(started=c.ProcessStarted(pid=44, exec_id=f"exec-{box.message.name}"))
        try:
            if not options.detach:
                async for said in self.converse(context, process, request_iterator):
                    yield c.ExecResponse(output=said)
        except asyncio.CancelledError:
            self.keep(context, exec_killed=True)
            raise
        finally:
            work.cancel()

    async def Wait(self, request: c.WaitRequest, context: Any) -> c.WaitResponse:
        box = await self.box(context, request.container)
        assert box.process
        await box.process.ended.wait()
        return c.WaitResponse(exit=box.process.exit)

    async def Stop(self, request: c.StopRequest, context: Any) -> c.StopResponse:
        box = await self.box(context, request.container)
        self.keep(context, stop=box.message.name, timeout=request.timeout.ToSeconds())
        if box.process is None:
            return c.StopResponse()
        box.process.signal("TERM")
        try:
            async with asyncio.timeout(request.timeout.ToSeconds()):
                await box.process.ended.wait()
        except TimeoutError:
            box.process.signal("KILL")
        return c.StopResponse(exit=box.process.exit)

    async def Kill(self, request: c.KillRequest, context: Any) -> c.KillResponse:
        box = await self.box(context, request.container)
        self.keep(context, kill=request.signal.name)
        if box.process is None or box.process.exit:
            await self.refuse(context, Refusal(grpc.StatusCode.FAILED_PRECONDITION, "it does not run"))
        assert box.process
        box.process.signal(request.signal.name)
        return c.KillResponse()

    async def Pause(self, request: c.PauseRequest, context: Any) -> c.PauseResponse:
        (await self.box(context, request.container)).message.state = c.CONTAINER_STATE_PAUSED
        return c.PauseResponse()

    async def Resume(self, request: c.ResumeRequest, context: Any) -> c.ResumeResponse:
        (await self.box(context, request.container)).message.state = c.CONTAINER_STATE_RUNNING
        return c.ResumeResponse()

    async def Update(self, request: c.UpdateRequest, context: Any) -> c.UpdateResponse:
        box = await self.box(context, request.container)
        asked = {field.name: value for field, value in request.resources.ListFields()}
        restart = request.restart if request.HasField("restart") else None
        self.keep(context, update=box.message.name, resources=asked, restart=restart)
        return c.UpdateResponse(container=box.message)

    async def Top(self, request: c.TopRequest, context: Any) -> c.TopResponse:
        await self.box(context, request.container)
        main = c.ContainerProcess(
            pid=42, parent_pid=41, inner_pid=1, state="S", name="sh", args=["sh", "-c", "x"]
        )
        idle = c.ContainerProcess(pid=43, parent_pid=42, inner_pid=7, state="Z", name="gone", exec_id="e1")
        return c.TopResponse(processes=[main, idle])

    async def RemoveContainer(
        self, request: c.RemoveContainerRequest, context: Any
    ) -> c.RemoveContainerResponse:
        box = await self.box(context, request.container)
        self.keep(context, removed=box.message.name, force=request.force)
        del self.world(context).boxes[box.message.id]
        return c.RemoveContainerResponse(id=box.message.id)

    async def ListContainers(
        self, request: c.ListContainersRequest, context: Any
    ) -> c.ListContainersResponse:
        boxes = [box.message for box in reversed(self.world(context).boxes.values())]
        if request.states:
            boxes = [box for box in boxes if box.state in request.states]
        at = int(request.page_token or 0)
        more = str(at + 1) if at + 1 < len(boxes) else ""
        return c.ListContainersResponse(containers=boxes[at : at + 1], next_page_token=more)

    async def GetContainer(self, request: c.GetContainerRequest, context: Any) -> c.GetContainerResponse:
        box = await self.box(context, request.container)
        return c.GetContainerResponse(container=box.message, oci_spec='{"ociVersion": "1.2.0"}')

    async def Logs(self, request: c.LogsRequest, context: Any) -> AsyncIterator[c.LogsResponse]:
        await self.box(context, request.container)
        self.keep(
            context, tail=request.tail if request.HasField("tail") else None, since=request.HasField("since")
        )
        yield c.LogsResponse(at=now(), stream=c.LOG_STREAM_STDOUT, data=b"part ")
        yield c.LogsResponse(at=now(), stream=c.LOG_STREAM_STDERR, data=b"trouble\n")
        yield c.LogsResponse(at=now(), stream=c.LOG_STREAM_STDOUT, data=b"whole\n")
        if request.follow:
            await asyncio.Event().wait()

    async def Stats(self, request: c.StatsRequest, context: Any) -> AsyncIterator[c.StatsResponse]:
        await self.box(context, request.container)
        for reading in range(2):
            at = Timestamp(seconds=1_700_000_000 + reading)
            yield c.StatsResponse(at=at, cpu_nanos=reading * 500_000_000, memory_bytes=64 << 20, pids=3)

    async def CopyIn(self, request_iterator: Any, context: Any) -> c.CopyInResponse:
        options, data = await collect(request_iterator)
        await self.box(context, options.container)
        (self.records / f"{self.namespace(context)}.tar").write_bytes(data)
        if data.find(b"refuse") >= 0:
            await self.refuse(context, Refusal(grpc.StatusCode.INVALID_ARGUMENT, "an entry leaves the root"))
        return c.CopyInResponse(bytes=len(data))
