"""Calls to a shim: deadlines, and statuses turned into errors of the house."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Protocol, TypeVar

import anyio
import anyio.lowlevel
import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from orlop_protos.containerd.task.v3 import shim_pb2 as task
from orlop_protos.containerd.task.v3 import shim_pb2_grpc as task_grpc
from orlop_protos.orlop.shim.v1 import shim_pb2 as api
from orlop_protos.orlop.shim.v1 import shim_pb2_grpc as api_grpc
from orlopd.plugin.errors import Unavailable, Unimplemented

from ..ttrpc import TtrpcClient, TtrpcStream
from .attachment import AttachCall, GrpcAttachCall, StreamAttachCall, begin
from .wire import error_of, unreachable

M = TypeVar("M", bound=Message)

_MAX_MESSAGE = 16 << 20
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 200),
)
_CONNECT = 10.0
_TASK = "containerd.task.v3.Task"
_SHIM = "orlop.shim.v1.ShimService"
_REPLIES: dict[str, type[Any]] = {
    method.name: GetMessageClass(method.output_type)
    for method in task.DESCRIPTOR.services_by_name["Task"].methods
}


Trailing = Any
"""What came beside a reply: pairs of key and value."""


class ShimClient(Protocol):
    """The connection to one shim, made when it is first needed."""

    async def ask(self, method: str, request: Message, deadline: float | None) -> tuple[Any, Trailing]:
        """Call a method of the task service.

        :param deadline: seconds; None for no limit
        :raises OrlopError: what the shim said, or Unavailable where it could not be reached
        """
        ...

    def events(self, after: int) -> AsyncGenerator[api.EventsResponse]:
        """What happened after a number, then what happens, until the shim shuts down. The shim may forget an
        event once the next is asked for.

        :raises OrlopError: as :meth:`ask`
        """
        ...

    async def attach(self, options: api.AttachOptions) -> tuple[AttachCall, api.Attached]:
        """A call of ``ShimService.Attach`` and the first that the shim says to it.

        :raises OrlopError: as :meth:`ask`
        """
        ...

    def take_all(self) -> None:
        """Take what a shim that is about to end has yet for attached clients; they may read it later."""
        ...

    async def close(self, grace: float | None = None) -> None:
        """Close the connection; attachments under way get ``grace`` seconds."""
        ...


def client_of(address: str, protocol: str) -> ShimClient:
    """A client for a shim whose socket speaks ``protocol``, see :class:`.folder.Record`."""
    return GrpcClient(address) if protocol == "grpc" else TtrpcShimClient(address)


class GrpcClient:
    """For shims that speak gRPC alone: others', and ours of earlier versions."""

    def __init__(self, address: str) -> None:
        self._channel = _channel(address)
        self._task: Any = task_grpc.TaskStub(self._channel)
        self._shim: Any = api_grpc.ShimServiceStub(self._channel)

    async def ask(self, method: str, request: Message, deadline: float | None) -> tuple[Any, Trailing]:
        call = getattr(self._task, method)(request, timeout=deadline)
        try:
            reply = await call
            return reply, await call.trailing_metadata()
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        except asyncio.CancelledError:
            if call.cancelled() and not _being_cancelled():  # the channel was closed under the call
                raise Unavailable("the connection to the shim was closed") from None
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise

    async def ready(self, deadline: float) -> None:
        """Return when the connection stands. :raises Unavailable: it does not within ``deadline`` seconds"""
        try:
            with anyio.fail_after(deadline):
                await self._channel.channel_ready()
        except TimeoutError:
            raise Unavailable("the shim cannot be reached", reason="SHIM_UNREACHABLE") from None

    async def lost(self) -> None:
        """Return when a connection that stood is no more."""
        state = self._channel.get_state()
        while state is grpc.ChannelConnectivity.READY:
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state()

    async def events(self, after: int) -> AsyncGenerator[api.EventsResponse]:
        call = self._shim.Events(api.EventsRequest(after=after))
        try:
            async for record in call:
                yield record
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        except asyncio.CancelledError:
            # The call raises an error of its own when it is cancelled, which no scope takes for its own.
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise
        finally:
            call.cancel()

    async def attach(self, options: api.AttachOptions) -> tuple[AttachCall, api.Attached]:
        return await begin(GrpcAttachCall(self._shim.Attach()), options)

    def take_all(self) -> None:
        """gRPC takes what it has room for by itself."""

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)


class TtrpcShimClient:
    """By ttrpc, which costs a fraction of gRPC's time on both sides."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: TtrpcClient | None = None
        self._connecting = anyio.Lock()
        self._waits: dict[str, asyncio.Task[tuple[Any, Trailing]]] = {}
        self._streams: set[TtrpcStream] = set()
        self._has_streams = True
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    async def ask(self, method: str, request: Message, deadline: float | None) -> tuple[Any, Trailing]:
        if method == "Wait":
            return await self._wait(request)
        return await self._ask(_TASK, method, request, _REPLIES[method], deadline)

    async def events(self, after: int) -> AsyncGenerator[api.EventsResponse]:
        while True:
            request = api.NextEventsRequest(after=after)
            reply, _ = await self._ask(_SHIM, "NextEvents", request, api.NextEventsResponse, None)
            if not reply.events:
                return
            for record in reply.events:
                yield record
                after = record.sequence

    async def attach(self, options: api.AttachOptions) -> tuple[AttachCall, api.Attached]:
        if self._has_streams:
            try:
                return await self._attach(options)
            except Unimplemented:
                self._has_streams = False  # a shim of an earlier version
        reply, _ = await self._ask(_SHIM, "Serve", api.ServeRequest(), api.ServeResponse, _CONNECT)
        self._check()
        if self._channel is None:
            self._channel = _channel(reply.address)
        stub: Any = api_grpc.ShimServiceStub(self._channel)
        return await begin(GrpcAttachCall(stub.Attach()), options)

    async def _attach(self, options: api.AttachOptions) -> tuple[AttachCall, api.Attached]:
        self._check()
        with unreachable():
            stream = await TtrpcStream.open(self._address, _SHIM, "Attach", _CONNECT)
        if self._closed:
            stream.abort()
        self._streams.add(stream)
        return await begin(StreamAttachCall(stream, lambda: self._streams.discard(stream)), options)

    def take_all(self) -> None:
        for stream in self._streams:
            stream.take_all()

    async def close(self, grace: float | None = None) -> None:
        self._closed = True
        for wait in self._waits.values():
            wait.cancel()
        self.take_all()
        with anyio.move_on_after(grace or 0.0):
            for stream in list(self._streams):
                await stream.closed()
        for stream in list(self._streams):
            stream.abort()
        if self._channel is not None:
            await self._channel.close(grace)
        if self._connection is not None:
            await self._connection.close()

    async def _wait(self, request: Any) -> tuple[Any, Trailing]:
        """Wait for a process, once for all who do: ttrpc cannot tell a shim that one has given up."""
        wait = self._waits.get(request.exec_id)
        if wait is None:
            asking = self._ask(_TASK, "Wait", request, task.WaitResponse, None)
            wait = self._waits[request.exec_id] = asyncio.ensure_future(asking)
            wait.add_done_callback(lambda done: self._waited(request.exec_id, done))
        try:
            return await asyncio.shield(wait)
        except asyncio.CancelledError:
            if wait.cancelled() and not _being_cancelled():  # closed under the call
                raise Unavailable("the connection to the shim was closed") from None
            raise

    def _waited(self, exec_id: str, wait: asyncio.Task[tuple[Any, Trailing]]) -> None:
        self._waits.pop(exec_id, None)
        if not wait.cancelled():
            wait.exception()  # nobody may be there any more to ask for it

    async def _ask(
        self, service: str, method: str, request: Message, reply: type[M], deadline: float | None
    ) -> tuple[M, Trailing]:
        with unreachable():
            connection = await self._connected()
            found, told = await connection.ask(service, method, request, reply, deadline=deadline)
        return found, told.items()

    async def _connected(self) -> TtrpcClient:
        async with self._connecting:
            self._check()
            if self._connection is None or not self._connection.is_open:
                self._connection = await TtrpcClient.connect(self._address, _CONNECT)
            return self._connection

    def _check(self) -> None:
        if self._closed:
            raise Unavailable("the connection to the shim was closed")


def _channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"unix:{address}", options=_OPTIONS)


def _being_cancelled() -> bool:
    current = asyncio.current_task()
    return current is not None and current.cancelling() > 0
