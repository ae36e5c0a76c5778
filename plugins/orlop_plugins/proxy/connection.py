"""The connection to a peer: made when first wanted, made again when the peer was away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio.lowlevel
import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from orlop_protos.containerd.types import descriptor_pb2, mount_pb2
from orlopd.plugin import errors
from orlopd.plugin.errors import OrlopError, Unavailable
from orlopd.plugin.remote import Peer
from orlopd.plugin.values import Descriptor, Mount

SECONDS = 600.0
"""How long a call may take: a lazy snapshotter may fetch on the way, a commit may wait for the disk."""

NAMESPACE = "containerd-namespace"
DEFAULT_NAMESPACE = "default"

_FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_MAX_MESSAGE = 16 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_CLASSES: dict[str, type[OrlopError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, OrlopError) and kind is not OrlopError
}
# What grpc itself says where there is nobody; a peer's own UNAVAILABLE is something else.
_NOBODY = (
    "failed to connect",
    "Socket closed",
    "Connection reset",
    "recvmsg:",
    "sendmsg:",
    "GOAWAY",
    "Broken pipe",
)


class Connection:
    """Calls to one peer. Nothing is connected before the first."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._channel: grpc.aio.Channel | None = None
        self._stale: list[grpc.aio.Channel] = []

    @property
    def channel(self) -> grpc.aio.Channel:
        """A channel. One that could not connect refuses calls for a while, so a new one takes its place."""
        if self._channel is not None and self._channel.get_state() is _FAILED:
            self._stale.append(self._channel)
            self._channel = None
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(f"unix:{self.peer.address}", options=_OPTIONS)
        return self._channel

    async def call(self, method: Any, request: Any, namespace: str = "") -> Any:
        """Make a unary call.

        :raises OrlopError: what the peer said; Unavailable where it is not there
        """
        await self._close_stale()
        call = method(request, timeout=SECONDS, metadata=header(namespace))
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error
        except asyncio.CancelledError:
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise

    async def stream(self, method: Any, request: Any, namespace: str = "") -> AsyncIterator[Any]:
        """Make a call that answers with a stream. Raises as :meth:`call`."""
        call = method(request, timeout=SECONDS, metadata=header(namespace))
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error
        except asyncio.CancelledError:
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise
        finally:
            call.cancel()

    def error(self, error: grpc.aio.AioRpcError) -> OrlopError:
        """A failed call as an error of the house."""
        said = " ".join((error.details() or "").split())
        if error.code() is grpc.StatusCode.UNAVAILABLE and any(word in said for word in _NOBODY):
            return Unavailable(
                f"proxy plugin {self.peer.name} cannot be reached at {self.peer.address}",
                reason="PROXY_UNREACHABLE",
                resource=f"plugin {self.peer.name}",
                hint="start what serves it; the daemon connects by itself then",
            )
        kind = _CLASSES.get(error.code().name, errors.Internal)
        return kind(f"proxy plugin {self.peer.name}: {said or error.code().name.lower()}")

    async def _close_stale(self) -> None:
        while self._stale:
            await self._stale.pop().close(None)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._close_stale()
        if self._channel is not None:
            await self._channel.close(None)


def header(namespace: str) -> tuple[tuple[str, str], ...]:
    """The header that says whom a call is for; foreign peers want one, whatever it says."""
    return ((NAMESPACE, namespace or DEFAULT_NAMESPACE),)


def to_mounts(mounts: Any) -> list[mount_pb2.Mount]:
    """Mounts on the wire."""
    return [mount_pb2.Mount(type=m.type, source=m.source, target=m.target, options=m.options) for m in mounts]


def from_mounts(mounts: Any) -> list[Mount]:
    """Mounts from the wire."""
    return [Mount(m.type, m.source, tuple(m.options), m.target) for m in mounts]


def to_descriptor(descriptor: Descriptor) -> descriptor_pb2.Descriptor:
    """A descriptor on the wire."""
    return descriptor_pb2.Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        annotations=descriptor.annotations,
    )


def from_descriptor(message: descriptor_pb2.Descriptor) -> Descriptor:
    """A descriptor from the wire."""
    return Descriptor(message.media_type, message.digest, message.size, annotations=dict(message.annotations))


def from_timestamp(at: Timestamp) -> datetime:
    """A time from the wire; the epoch for one that is out of range."""
    try:
        return _EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000)
    except OverflowError:
        return _EPOCH
