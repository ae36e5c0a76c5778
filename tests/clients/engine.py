"""An engine that only pretends: it serves orlop.engine.v1 for the client's tests, and keeps what it was asked.

Run as `python engine.py SOCKET RECORDS`. Each namespace is a world of its own, so that tests can share one. What a test
wants to know of the requests is in RECORDS/NAMESPACE, a JSON object per line. A container's "program" is one of
``PROGRAMS`` below.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from orlop_protos.orlop.engine.v1 import (
    containers_pb2 as c,
    containers_pb2_grpc,
    images_pb2 as i,
    images_pb2_grpc,
    stream_pb2 as s,
    system_pb2 as y,
    system_pb2_grpc,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4
LAYERS = ["sha256:" + digit * 64 for digit in "ab"]


def now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp


@dataclass
class Process:
    """A pretended process: what it is told comes by ``told``, what it says goes to ``said``."""

    args: list[str]
    terminal: bool
    stdin: bool
    said: asyncio.Queue[s.StreamOutput] = field(default_factory=asyncio.Queue)
    told: asyncio.Queue[tuple[str, Any]] = field(default_factory=asyncio.Queue)
    exit: s.ProcessExit | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, data: bytes, stderr: bool = False) -> None:
        self.said.put_nowait(s.StreamOutput(stderr=data) if stderr else s.StreamOutput(stdout=data))

    def end(self, code: int, reason: str = "") -> None:
        if self.exit is None:
            self.exit = s.ProcessExit(code=code, at=now(), reason=reason)
            self.said.put_nowait(s.StreamOutput(exit=self.exit))
            self.ended.set()

    def signal(self, name: str) -> None:
        name = name.removeprefix("SIG")
        if name == "KILL":
            self.end(137)
        else:
            self.told.put_nowait(("signal", name))

    async def run(self) -> None:
        await PROGRAMS[self.args[0]](self)


async def echo(p: Process) -> None:
    p.say(" ".join(p.args[1:]).encode() + b"\n")
    p.end(0)


async def exits(p: Process) -> None:
    p.say(b"", stderr=True)
    p.end(int(p.args[1]), " ".join(p.args[2:]))


async def cat(p: Process) -> None:
    """Say what comes in; with a terminal sizes and signals too, and end at end of input or with exit NUMBER."""
    while True:
        what, value = await p.told.get()
        match what:
            case "stdin" if value.startswith(b"exit "):
                return p.end(int(value.split()[1]))
            case "stdin":
                p.say(value)
            case "end":
                return p.end(0)
            case "resize" if p.terminal:
                p.say(b"size %d %d\r\n" % value)
            case "signal":
                p.say(f"signal {value}\n".encode())


async def count(p: Process) -> None:
    """Count the bytes that come in."""
    total = 0
    while (told := await p.told.get())[0] != "end":
        total += len(told[1]) if told[0] == "stdin" else 0
    p.say(b"%d\n" % total)
    p.end(0)


async def polite(p: Process) -> None:
    """Run until a signal comes, and end with its name."""
    p.say(b"ready\n")
    while True:
        what, value = await p.told.get()
        if what == "signal":
            p.say(f"got {value}\n".encode(), stderr=True)
            return p.end(0)


async def stubborn(p: Process) -> None:
    """Ignore everything, as a first process without handlers does."""
    p.say(b"ready\n")
    await asyncio.Event().wait()


async def flood(p: Process) -> None:
    while p.exit is None:
        p.say(b"x" * 65536)
        while p.said.qsize() > 4:
            await asyncio.sleep(0.001)


PROGRAMS = {
    "echo": echo,
    "exit": exits,
    "cat": cat,
    "count": count,
    "polite": polite,
    "stubborn": stubborn,
    "flood": flood,
}


@dataclass
class Box:
    """A pretended container."""

    message: c.Container
    process: Process | None = None
    logs: list[c.LogsResponse] = field(default_factory=list)


@dataclass
class World:
    """A namespace."""

    images: dict[str, i.Image] = field(default_factory=dict)
    configs: dict[str, i.ImageConfig] = field(default_factory=dict)
    boxes: dict[str, Box] = field(default_factory=dict)


class Refusal(Exception):
    def __init__(
        self, code: grpc.StatusCode, message: str, reason: str = "", hint: str = "", name: str = ""
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.reason, self.hint, self.name = code, message, reason, hint, name

    def trailers(self) -> Any:
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        details: list[Any] = [
            error_details_pb2.ErrorInfo(domain="orlop.dev", reason=self.reason, metadata={"a": "b"})
        ]
        if self.name:
            details.append(error_details_pb2.ResourceInfo(resource_type="container", resource_name=self.name))
        if self.hint:
            details.append(error_details_pb2.LocalizedMessage(locale="en", message=self.hint))
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        return (("grpc-status-details-bin", status.SerializeToString()),)


class Base:
    def __init__(self, records: Path, worlds: defaultdict[str, World], tasks: set[asyncio.Task[Any]]) -> None:
        self.records = records
        self.worlds = worlds
        self.tasks = tasks

    def world(self, context: Any) -> World:
        return self.worlds[self.namespace(context)]

    def namespace(self, context: Any) -> str:
        return str(dict(context.invocation_metadata() or ()).get("containerd-namespace", "-"))

    def keep(self, context: Any, **what: Any) -> None:
        with (self.records / self.namespace(context)).open("a") as file:
            file.write(json.dumps(what) + "\n")

    async def refuse(self, context: Any, refusal: Refusal) -> None:
        context.set_trailing_metadata(refusal.trailers())
        await context.abort(refusal.code, refusal.message)

    async def box(self, context: Any, name: str) -> Box:
        for box in self.world(context).boxes.values():
            if name == box.message.name or (len(name) > 3 and box.message.id.startswith(name)):
                return box
        await self.refuse(context, missing(name))
        raise AssertionError

    def spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def missing(name: str) -> Refusal:
    return Refusal(
        grpc.StatusCode.NOT_FOUND,
        f'no container "{name}"',
        "CONTAINER_NOT_FOUND",
        "`orlop ps -a` lists them",
        name,
    )


class Images(Base, images_pb2_grpc.ImageServiceServicer):
    async def Pull(self, request: i.PullRequest, context: Any) -> AsyncIterator[i.PullResponse]:
        self.keep(context, pull=request.reference, plain_http=request.plain_http, no_unpack=request.no_unpack)
        if request.reference == "missing":
            await self.refuse(
                context, Refusal(grpc.StatusCode.NOT_FOUND, "missing: no such image", "IMAGE_NOT_FOUND")
            )
        name = f"docker.io/library/{request.reference}:latest"
        yield i.PullResponse(resolved=i.PullResolved(name=name, digest=DIGEST, media_type="m"))
        async for progress in steps(request.reference):
            yield i.PullResponse(progress=progress)
        image = i.Image(name=name, digest=DIGEST, size=3_500_000, created_at=now(), updated_at=now())
        image.platforms.add(os="linux", architecture="amd64")
        self.world(context).images[request.reference] = image
        yield i.PullResponse(image=image)

    async def Import(self, request_iterator: Any, context: Any) -> i.ImportResponse:
        options, data = await collect(request_iterator)
        self.keep(context, imported=len(data), name=options.name)
        if data.startswith(b"bad"):
            await self.refuse(context, Refusal(grpc.StatusCode.INVALID_ARGUMENT, "the archive is truncated"))
        return i.ImportResponse(images=[i.Image(name=options.name or "from/archive:1", digest=DIGEST)])

    async def Export(self, request: i.ExportRequest, context: Any) -> AsyncIterator[i.ExportResponse]:
        if "missing" in request.names:
            await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, "missing: no such image"))
        for name in request.names:
            yield i.ExportResponse(chunk=name.encode())

    async def Build(self, request_iterator: Any, context: Any) -> i.BuildResponse:
        options, data = await collect(request_iterator)
        kept = self.records / f"{self.namespace(context)}.tar"
        kept.write_bytes(data)
        config = options.config
        self.keep(
            context,
            build=options.name,
            entrypoint=list(config.entrypoint),
            cmd=list(config.cmd),
            env=list(config.env),
            labels=dict(config.labels),
        )
        return i.BuildResponse(image=i.Image(name=options.name, digest=DIGEST))

    async def ListImages(self, request: i.ListImagesRequest, context: Any) -> i.ListImagesResponse:
        """A page holds one image, so that paging is always tried."""
        images = sorted(self.world(context).images.values(), key=lambda image: image.name)
        at = int(request.page_token or 0)
        more = str(at + 1) if at + 1 < len(images) else ""
        return i.ListImagesResponse(images=images[at : at + 1], next_page_token=more)

    async def GetImage(self, request: i.GetImageRequest, context: Any) -> i.GetImageResponse:
        image = self.world(context).images.get(request.name)
        if image is None:
            await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, f"{request.name}: no such image"))
        return i.GetImageResponse(image=image, config=i.ImageConfig(cmd=["sh"]))

    async def Tag(self, request: i.TagRequest, context: Any) -> i.TagResponse:
        return i.TagResponse(image=i.Image(name=request.target, digest=DIGEST))

    async def RemoveImage(self, request: i.RemoveImageRequest, context: Any) -> i.RemoveImageResponse:
        if self.world(context).images.pop(request.name, None) is None:
            await self.refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, f"{request.name}: no such image"))
        return i.RemoveImageResponse(name=request.name, deleted=[DIGEST])


async def steps(reference: str) -> AsyncIterator[i.BlobProgress]:
    yield i.BlobProgress(
        digest=DIGEST, kind=i.BLOB_KIND_MANIFEST, state=i.BLOB_STATE_FETCHED, current=9, total=9
    )
    for layer in LAYERS:
        yield i.BlobProgress(digest=layer, kind=i.BLOB_KIND_LAYER, state=i.BLOB_STATE_WAITING)
    for layer in LAYERS:
        for current in (0, 1 << 20, 2 << 20):
            yield blob(layer, i.BLOB_STATE_FETCHING, current)
        if reference == "slow":
            await asyncio.sleep(60)
        yield blob(layer, i.BLOB_STATE_FETCHED, 2 << 20)
    for layer in LAYERS:
        yield blob(layer, i.BLOB_STATE_UNPACKING, 0)
        yield blob(layer, i.BLOB_STATE_UNPACKED, 2 << 20)


def blob(layer: str, state: Any, current: int) -> i.BlobProgress:
    return i.BlobProgress(digest=layer, kind=i.BLOB_KIND_LAYER, state=state, current=current, total=2 << 20)


async def collect(requests: Any) -> tuple[Any, bytes]:
    options, data = None, bytearray()
    async for request in requests:
        if request.WhichOneof("request") == "options":
            options = request.options
        else:
            data += request.chunk
    return options, bytes(data)


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


class System(Base, system_pb2_grpc.SystemServiceServicer):
    async def Info(self, request: y.InfoRequest, context: Any) -> y.InfoResponse:
        return y.InfoResponse(
            root_dir="/r", state_dir="/s", default_snapshotter="vfs", extra={"colour": "blue"}
        )

    async def Version(self, request: y.VersionRequest, context: Any) -> y.VersionResponse:
        return y.VersionResponse(version="9.8.7", python="3.99", containerd_api="2.3")

    async def DiskUsage(self, request: y.DiskUsageRequest, context: Any) -> y.DiskUsageResponse:
        answer = y.DiskUsageResponse(content=y.Usage(count=3, bytes=5 << 20), reclaimable=1 << 20)
        answer.snapshots.add(snapshotter="vfs", usage=y.Usage(count=2, bytes=2048))
        return answer

    async def Prune(self, request: y.PruneRequest, context: Any) -> y.PruneResponse:
        gone = ["old"] if request.containers else []
        return y.PruneResponse(containers=gone, blobs=[DIGEST], reclaimed=4096)

    async def Events(self, request: y.EventsRequest, context: Any) -> AsyncIterator[y.EventsResponse]:
        body = AnyMessage(type_url="containerd.events.TaskExit", value=b"")
        namespace = self.namespace(context)
        yield y.EventsResponse(
            at=now(), namespace=namespace, topic="/tasks/exit", event=body, json='{"pid": 7}'
        )
        await asyncio.Event().wait()

    async def Plugins(self, request: y.PluginsRequest, context: Any) -> y.PluginsResponse:
        answer = y.PluginsResponse()
        answer.plugins.add(
            kind="io.containerd.snapshotter.v1", id="vfs", status=y.PLUGIN_STATUS_OK, aliases=["native"]
        )
        answer.plugins.add(
            kind="io.containerd.snapshotter.v1",
            id="zfs",
            status=y.PLUGIN_STATUS_SKIPPED,
            reason="no\x1b[31m zfs",
        )
        return answer


async def main(socket: str, records: str) -> None:
    server = grpc.aio.server()
    shared: tuple[Path, defaultdict[str, World], set[asyncio.Task[Any]]] = (
        Path(records),
        defaultdict(World),
        set(),
    )
    images_pb2_grpc.add_ImageServiceServicer_to_server(Images(*shared), server)
    containers_pb2_grpc.add_ContainerServiceServicer_to_server(Containers(*shared), server)
    system_pb2_grpc.add_SystemServiceServicer_to_server(System(*shared), server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    print("ready", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
