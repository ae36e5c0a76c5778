"""Events to a containerd that wants to be told of them: containerd.services.events.ttrpc.v1."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from google.protobuf.empty_pb2 import Empty

from orlop_protos.containerd.services.events.ttrpc.v1 import events_pb2
from orlop_protos.containerd.types import event_pb2
from orlopd.plugin.errors import OrlopError

from ...ttrpc import TtrpcClient
from ..journal import Journal, Record

log = logging.getLogger(__name__)

_SERVICE = "containerd.services.events.ttrpc.v1.Events"
_DEADLINE = 5.0
_PAUSES = (0.1, 0.5, 1, 2, 5)
"""Seconds between attempts, the last for ever: a containerd that is being upgraded comes back."""


async def publish(journal: Journal, namespace: str, address: str) -> None:
    """Forward every event, in order, until the journal is closed and all is forwarded."""
    client: TtrpcClient | None = None
    try:
        async for record in journal.follow(0):
            client = await _forward(client, Path(address), namespace, record)
            journal.forget(record.sequence)
    finally:
        if client is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await client.close()


async def _forward(client: TtrpcClient | None, path: Path, namespace: str, record: Record) -> TtrpcClient:
    request = events_pb2.ForwardRequest(
        envelope=event_pb2.Envelope(
            timestamp=record.at, namespace=namespace, topic=record.topic, event=record.event
        )
    )
    attempt = 0
    while True:
        try:
            if client is None:
                client = await TtrpcClient.connect(str(path), _DEADLINE)
            await client.call(_SERVICE, "Forward", request, Empty, deadline=_DEADLINE)
            return client
        except OrlopError as error:
            log.warning("event %s is not forwarded yet: %s", record.topic, error)
            if client is not None:
                await client.close()
            client = None
        await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
        attempt += 1
