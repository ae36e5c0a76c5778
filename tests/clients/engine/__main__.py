"""The server of the pretended engine, its SystemService included."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage

from orlop_protos.orlop.engine.v1 import (
    containers_pb2_grpc,
    images_pb2_grpc,
    system_pb2_grpc,
)
from orlop_protos.orlop.engine.v1 import system_pb2 as y
from tests.clients.engine.base import DIGEST, Base, World, now
from tests.clients.engine.containers import Containers
from tests.clients.engine.images import Images


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

    async def ListUsage(
        self, request: y.ListUsageRequest, context: Any
    ) -> AsyncIterator[y.ListUsageResponse]:
        for answer in list[y.ListUsageResponse]():
            yield answer

    async def Why(self, request: y.WhyRequest, context: Any) -> y.WhyResponse:
        return y.WhyResponse()

    async def Check(self, request: y.CheckRequest, context: Any) -> AsyncIterator[y.CheckResponse]:
        for answer in list[y.CheckResponse]():
            yield answer

    async def Prune(self, request: y.PruneRequest, context: Any) -> y.PruneResponse:
        answer = y.PruneResponse(reclaimed=4096)
        if request.containers:
            answer.objects.add(kind=y.OBJECT_KIND_CONTAINER, id="old", reason="it has ended")
        answer.objects.add(kind=y.OBJECT_KIND_BLOB, id=DIGEST, bytes=4096, reason="nothing refers to it")
        return answer

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
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
