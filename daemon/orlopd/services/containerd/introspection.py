"""containerd.services.introspection.v1: the plugins, and facts about the daemon.

The daemon's own services are listed beside the plugins, under the kinds and ids that containerd
gives them, because clients look there for what a daemon can do.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import grpc
from google.rpc import status_pb2

from orlop_protos.containerd.services.introspection.v1 import introspection_pb2 as pb
from orlop_protos.containerd.services.introspection.v1 import introspection_pb2_grpc
from orlop_protos.containerd.types import platform_pb2
from orlopd.core.core import Core
from orlopd.core.filters import parse
from orlopd.core.parts import PartInfo, PartStatus
from orlopd.plugin.errors import NotFound
from orlopd.plugin.provider import CONTENT, DIFFER, RUNTIME, SNAPSHOTTER

GRPC = "io.containerd.grpc.v1"
SERVICE = "io.containerd.service.v1"

# Clients tell a plugin that was left out from one that broke by these words.
_SKIPPED = "skip plugin"

_OWN: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("io.containerd.event.v1", "exchange", ()),
    ("io.containerd.gc.v1", "scheduler", ("io.containerd.metadata.v1",)),
    ("io.containerd.metadata.v1", "bolt", (CONTENT.name, SNAPSHOTTER.name)),
    (SERVICE, "containers-service", ("io.containerd.metadata.v1",)),
    (SERVICE, "content-service", ("io.containerd.metadata.v1",)),
    (SERVICE, "diff-service", (DIFFER.name,)),
    (SERVICE, "images-service", ("io.containerd.metadata.v1",)),
    (SERVICE, "introspection-service", ()),
    (SERVICE, "leases-service", ("io.containerd.metadata.v1",)),
    (SERVICE, "namespaces-service", ("io.containerd.metadata.v1",)),
    (SERVICE, "snapshots-service", ("io.containerd.metadata.v1",)),
    (SERVICE, "tasks-service", (RUNTIME.name, "io.containerd.metadata.v1")),
    *(
        (GRPC, name, (SERVICE,))
        for name in (
            "containers",
            "content",
            "diff",
            "events",
            "healthcheck",
            "images",
            "introspection",
            "leases",
            "namespaces",
            "snapshots",
            "tasks",
            "version",
        )
    ),
)


class IntrospectionService(introspection_pb2_grpc.IntrospectionServicer):
    """Answers from the host's register of parts."""

    def __init__(self, core: Core) -> None:
        self._root = core.settings.root
        machine = platform_pb2.Platform(os="linux", architecture=core.architecture)
        plugins = [_to_proto(info, machine) for info in core.plugins]
        plugins += [pb.Plugin(type=kind, id=name, requires=needs) for kind, name, needs in _OWN]
        self._plugins = sorted(plugins, key=lambda plugin: (plugin.type, plugin.id))
        self._uuid = ""

    def register(self, server: Any) -> Sequence[str]:
        introspection_pb2_grpc.add_IntrospectionServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["Introspection"].full_name]

    async def Plugins(self, request: pb.PluginsRequest, context: Any) -> pb.PluginsResponse:
        wanted = parse(request.filters)
        return pb.PluginsResponse(plugins=[p for p in self._plugins if wanted.match(_adaptor(p))])

    async def PluginInfo(self, request: pb.PluginInfoRequest, context: Any) -> pb.PluginInfoResponse:
        for plugin in self._plugins:
            if (plugin.type, plugin.id) == (request.type, request.id):
                return pb.PluginInfoResponse(plugin=plugin)
        raise NotFound(f"plugin {request.type}.{request.id}: not found", resource=f"plugin {request.id}")

    async def Server(self, request: Any, context: Any) -> pb.ServerResponse:
        if not self._uuid:
            self._uuid = await anyio.to_thread.run_sync(_persistent_uuid, self._root / "uuid")
        return pb.ServerResponse(
            uuid=self._uuid,
            pid=os.getpid(),
            pidns=await anyio.to_thread.run_sync(lambda: Path("/proc/self/ns/pid").stat().st_ino),
        )


def _to_proto(info: PartInfo, machine: platform_pb2.Platform) -> pb.Plugin:
    plugin = pb.Plugin(
        type=info.kind,
        id=info.id,
        requires=info.requires,
        platforms=[_platform(platform) for platform in info.platforms]
        or ([] if info.short == "plugin" else [machine]),
        exports=dict(info.exports),
        capabilities=info.capabilities,
    )
    if info.status is not PartStatus.OK:
        skipped = info.status is PartStatus.SKIPPED
        code: Any = (grpc.StatusCode.UNIMPLEMENTED if skipped else grpc.StatusCode.UNKNOWN).value
        message = f"{info.reason}: {_SKIPPED}" if skipped else info.reason
        plugin.init_err.CopyFrom(status_pb2.Status(code=code[0], message=message))
    return plugin


def _platform(text: str) -> platform_pb2.Platform:
    system, _, rest = text.partition("/")
    architecture, _, variant = rest.partition("/")
    return platform_pb2.Platform(os=system, architecture=architecture, variant=variant)


def _adaptor(plugin: pb.Plugin) -> Any:
    def value(path: tuple[str, ...]) -> str | None:
        match path:
            case ("type",):
                return plugin.type
            case ("id",):
                return plugin.id
            case ("platforms",):
                return ",".join(f"{p.os}/{p.architecture}" for p in plugin.platforms)
            case ("capabilities",):
                return ",".join(plugin.capabilities)
            case _:
                return None

    return value


def _persistent_uuid(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        pass
    made = str(uuid.uuid4())
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="ascii") as file:
        file.write(made + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    return made
