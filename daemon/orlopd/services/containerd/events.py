"""containerd.services.events.v1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf import empty_pb2

from orlop_protos.containerd.services.events.v1 import events_pb2, events_pb2_grpc
from orlop_protos.containerd.types import event_pb2
from orlopd.core.core import Core
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import now
from orlopd.services.convert import from_timestamp, published_event, to_envelope
from orlopd.services.scope import scope_of


class EventsService(events_pb2_grpc.EventsServicer):
    """Takes events and hands them out."""

    def __init__(self, core: Core) -> None:
        self._events = core.events

    def register(self, server: Any) -> Sequence[str]:
        events_pb2_grpc.add_EventsServicer_to_server(self, server)
        return [events_pb2.DESCRIPTOR.services_by_name["Events"].full_name]

    async def Publish(self, request: Any, context: Any) -> empty_pb2.Empty:
        namespace = scope_of(context).namespace
        await self._events.publish(published_event(now(), namespace, request.topic, request.event))
        return empty_pb2.Empty()

    async def Forward(self, request: Any, context: Any) -> empty_pb2.Empty:
        envelope = request.envelope
        if not envelope.HasField("timestamp"):
            raise InvalidArgument("timestamp must be set on forwarded event: invalid argument")
        at = from_timestamp(envelope.timestamp)
        await self._events.publish(published_event(at, envelope.namespace, envelope.topic, envelope.event))
        return empty_pb2.Empty()

    async def Subscribe(self, request: Any, context: Any) -> AsyncIterator[event_pb2.Envelope]:
        async with self._events.subscribe(list(request.filters)) as events:
            # Tells the client that nothing published from now on is missed.
            await context.send_initial_metadata(())
            async for event in events:
                yield to_envelope(event)
