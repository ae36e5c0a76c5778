"""What the pretended services share: processes, worlds, refusals, records."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from orlop_protos.orlop.engine.v1 import containers_pb2 as c
from orlop_protos.orlop.engine.v1 import images_pb2 as i
from orlop_protos.orlop.engine.v1 import stream_pb2 as s

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
    """Say what comes in, sizes of a terminal and signals too; end with the input, or with `exit N`."""
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
        await asyncio.sleep(0.001)
        while p.said.qsize() > 4:  # noqa: ASYNC110, a queue that was bounded would hold up ``say``
            await asyncio.sleep(0.001)


async def burst(p: Process) -> None:
    """End as soon as something comes in, with more to read than a client takes at once."""
    await p.told.get()
    for _ in range(40):
        p.say(b"x" * 1000)
    p.end(6)


PROGRAMS = {
    "burst": burst,
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
