"""orlop.engine.v1.SystemService."""

from __future__ import annotations

import base64
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from orlop_protos.orlop.engine.v1 import system_pb2, system_pb2_grpc
from orlopd.core.check_places import ContainerPlaces
from orlopd.core.core import Core
from orlopd.core.engine import Engine, State
from orlopd.core.journal import Gap
from orlopd.core.parts import PartInfo, PartStatus
from orlopd.plugin.errors import NotFound, OrlopError
from orlopd.plugin.values import Event, TypedBytes
from orlopd.services.convert import event_payload, from_timestamp, to_timestamp
from orlopd.services.scope import engine_scope_of

from . import upkeep

CONTAINERD_API = "2.3"

_STATUSES = {
    PartStatus.OK: system_pb2.PLUGIN_STATUS_OK,
    PartStatus.SKIPPED: system_pb2.PLUGIN_STATUS_SKIPPED,
    PartStatus.FAILED: system_pb2.PLUGIN_STATUS_FAILED,
}
_NAMES_NAMESPACE = re.compile(r"(?:^|,)\s*namespace\b")


# Streaming methods are coroutines that write; the stubs know generators alone.
_Base: Any = system_pb2_grpc.SystemServiceServicer


class SystemService(_Base):
    """The daemon itself, for thin clients."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._engine: Engine = core.engine

    def register(self, server: Any) -> Sequence[str]:
        system_pb2_grpc.add_SystemServiceServicer_to_server(self, server)
        return [system_pb2.DESCRIPTOR.services_by_name["SystemService"].full_name]

    async def Info(self, request: Any, context: Any) -> system_pb2.InfoResponse:
        scope = engine_scope_of(context)
        views = await self._engine.finder.views(scope)
        settings = self._core.settings
        return system_pb2.InfoResponse(
            root_dir=str(settings.root),
            state_dir=str(settings.state),
            default_snapshotter=await self._engine.context.default_snapshotter(scope),
            default_runtime=await self._engine.context.default_runtime(scope),
            containers=len(views),
            containers_running=sum(view.state in (State.RUNNING, State.PAUSED) for view in views),
            images=len(await self._core.images.list(scope)),
            cgroup_mode=_cgroup_mode(),
            kernel=os.uname().release,
            architecture=self._core.architecture,
            extra=dict(await self._core.parts.hooks.info()),
            warnings=[*_warnings(self._core.plugins), *await self._core.parts.hooks.warnings()],
        )

    async def Version(self, request: Any, context: Any) -> system_pb2.VersionResponse:
        return system_pb2.VersionResponse(
            version=self._core.settings.version,
            revision=self._core.settings.revision,
            python=platform.python_version(),
            containerd_api=CONTAINERD_API,
        )

    async def DiskUsage(self, request: Any, context: Any) -> system_pb2.DiskUsageResponse:
        usage = await self._engine.inventory.disk_usage(engine_scope_of(context))
        return system_pb2.DiskUsageResponse(
            content=system_pb2.Usage(count=usage.content.inodes, bytes=usage.content.size),
            snapshots=[
                system_pb2.SnapshotterUsage(
                    snapshotter=each.snapshotter,
                    usage=system_pb2.Usage(count=each.usage.inodes, bytes=each.usage.size),
                    reclaimable_all=each.reclaimable_all,
                )
                for each in usage.snapshots
            ],
            reclaimable=usage.reclaimable,
            reclaimable_all=usage.reclaimable_all,
        )

    async def ListUsage(self, request: Any, context: Any) -> None:
        async for page in self._core.upkeep.objects(engine_scope_of(context)):
            objects = [upkeep.object_usage(each) for each in page]
            await context.write(system_pb2.ListUsageResponse(objects=objects))

    async def Prune(self, request: Any, context: Any) -> system_pb2.PruneResponse:
        scope = engine_scope_of(context)
        gone = await self._engine.inventory.prune(
            scope, containers=request.containers, images=request.images, dry_run=request.dry_run
        )
        return upkeep.pruned(gone)

    async def Why(self, request: Any, context: Any) -> system_pb2.WhyResponse:
        scope = engine_scope_of(context)
        try:
            found = await self._core.explainer.why(scope, request.object)
        except NotFound:
            # An image may be called by a familiar name.
            with suppress(OrlopError):
                name = (await self._engine.finder.image(scope, request.object)).name
                return upkeep.why(await self._core.explainer.why(scope, name))
            raise
        return upkeep.why(found)

    async def Check(self, request: Any, context: Any) -> None:
        places = ContainerPlaces(self._core)
        async for item in self._core.checker.check(repair=request.repair, quick=request.quick, places=places):
            await context.write(upkeep.check(item))

    async def Events(self, request: Any, context: Any) -> None:
        scope = engine_scope_of(context)
        own = f"namespace=={scope.namespace}"
        # A filter that speaks of namespaces means what it says; any other stays at home.
        filters = [each if _NAMES_NAMESPACE.search(each) else f"{each},{own}" for each in request.filters]
        bus = self._core.events
        wanted = filters or [own]
        since = from_timestamp(request.since) if request.HasField("since") else None
        until = from_timestamp(request.until) if request.HasField("until") else None
        async with bus.follow(wanted, since=since, until=until) as events:
            # Tells the client that nothing from now on is missed.
            await context.send_initial_metadata(())
            async for each in events:
                await context.write(_event(each))

    async def Plugins(self, request: Any, context: Any) -> system_pb2.PluginsResponse:
        return system_pb2.PluginsResponse(plugins=[_plugin(each) for each in self._core.plugins])


def _event(item: Event | Gap) -> system_pb2.EventsResponse:
    if isinstance(item, Gap):
        since, until = to_timestamp(item.since), to_timestamp(item.until)
        return system_pb2.EventsResponse(
            gap=system_pb2.EventsGap(since=since, until=until, reason=item.reason)
        )
    return system_pb2.EventsResponse(
        at=to_timestamp(item.at),
        namespace=item.namespace,
        topic=item.topic,
        event=event_payload(item),
        json=_json(item),
    )


def _plugin(part: PartInfo) -> system_pb2.Plugin:
    return system_pb2.Plugin(
        kind=part.kind,
        id=part.id,
        status=_STATUSES[part.status],
        reason=part.reason,
        origin=part.origin,
        aliases=part.aliases,
        exports=dict(part.exports),
    )


def _cgroup_mode() -> str:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return "v2"
    return "hybrid" if (root / "unified" / "cgroup.controllers").exists() else "v1"


def _warnings(plugins: Sequence[PartInfo]) -> list[str]:
    found = [
        f"plugin {part.name} failed: {part.reason}" for part in plugins if part.status is PartStatus.FAILED
    ]
    if os.geteuid() != 0:
        found.append("this daemon does not run as root: some images and limits will not work")
    return found


def _json(event: Event) -> str:
    if event.raw is not None and not event.fields:
        return json.dumps(_plain(event.raw))
    return json.dumps(_plain(event.fields), ensure_ascii=False)


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case TypedBytes():
            return {"type_url": value.type_url, "value": base64.b64encode(value.value).decode()}
        case bytes():
            return base64.b64encode(value).decode()
        case Mapping():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return value
