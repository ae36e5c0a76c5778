"""The daemon itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from datetime import datetime

from orlop import _system_messages, _times, values
from orlop._connection import WORK_SECONDS, Connection
from orlop_protos.orlop.engine.v1 import system_pb2, system_pb2_grpc


class System:
    """What the daemon is, has, and does. Every method may raise ``OrlopError``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = system_pb2_grpc.SystemServiceStub(connection.channel)

    async def info(self) -> values.Info:
        """What this daemon is, where it keeps things, what it can do."""
        return _system_messages.info(await self._connection.unary(self._stub.Info, system_pb2.InfoRequest()))

    async def version(self) -> values.Version:
        """The daemon's version and those of what it stands on."""
        m = await self._connection.unary(self._stub.Version, system_pb2.VersionRequest())
        return values.Version(m.version, m.revision, m.python, m.containerd_api)

    async def disk_usage(self) -> values.DiskUsage:
        """What the namespace's images, containers and snapshots take on disk."""
        request = system_pb2.DiskUsageRequest()
        return _system_messages.disk_usage(
            await self._connection.unary(self._stub.DiskUsage, request, timeout=WORK_SECONDS)
        )

    async def list_usage(self) -> AsyncGenerator[values.ObjectUsage, None]:
        """The same object by object: every blob and snapshot, and what keeps it."""
        async for response in self._connection.stream(self._stub.ListUsage, system_pb2.ListUsageRequest()):
            for each in response.objects:
                yield _system_messages.object_usage(each)

    async def why(self, object: str) -> values.Explanation:
        """Why an object is there, or how it went: by a digest, key or name, or enough of its beginning."""
        request = system_pb2.WhyRequest(object=object)
        return _system_messages.explanation(await self._connection.unary(self._stub.Why, request))

    async def check(
        self, *, repair: bool = False, quick: bool = False
    ) -> AsyncGenerator[values.Finding | values.CheckProgress | values.CheckSummary, None]:
        """Compare what the daemon knows with what is on its disk, in all namespaces; the summary is last.

        :param repair: mend what can be mended without losing anything
        :param quick: do not hash blobs
        """
        request = system_pb2.CheckRequest(repair=repair, quick=quick)
        async for response in self._connection.stream(self._stub.Check, request):
            if (item := _system_messages.check(response)) is not None:
                yield item

    async def prune(
        self, *, containers: bool = False, images: bool = False, dry_run: bool = False
    ) -> values.Pruned:
        """Collect what nothing needs; stopped containers and images that no container uses, if asked.

        :param dry_run: remove nothing, only say what would go
        """
        request = system_pb2.PruneRequest(containers=containers, images=images, dry_run=dry_run)
        return _system_messages.pruned(
            await self._connection.unary(self._stub.Prune, request, timeout=WORK_SECONDS)
        )

    async def events(
        self,
        filters: Iterable[str] = (),
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncGenerator[values.Event | values.EventsGap, None]:
        """What happens from now on, all of it or what any containerd filter matches; without an end.

        With ``since`` first what happened from then on, out of the daemon's journal; an ``EventsGap`` says
        that the journal does not have it all. With ``until`` it ends at that time.
        """
        request = system_pb2.EventsRequest(
            filters=filters, since=_times.timestamp(since), until=_times.timestamp(until)
        )
        async for response in self._connection.stream(self._stub.Events, request):
            yield _system_messages.event(response)

    async def plugins(self) -> tuple[values.Plugin, ...]:
        """The plugins, those that failed or do not suit the machine included, in order of kind and id."""
        response = await self._connection.unary(self._stub.Plugins, system_pb2.PluginsRequest())
        return tuple(map(_system_messages.plugin, response.plugins))
