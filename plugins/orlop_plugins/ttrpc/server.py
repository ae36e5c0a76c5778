"""The answering side: a server on a listening unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from google.protobuf.message import DecodeError, Message

from orlop_protos.ttrpc import request_pb2
from orlopd.plugin.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    OrlopError,
    Unavailable,
    Unimplemented,
)

from .frames import Flag, Frame, FrameError, FrameReader, FrameType
from .status import details_of, status_of
from .stream import StreamEnd

log = logging.getLogger(__name__)

_HIGH_WATER = 8 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply with metadata, which only our own clients read."""

    message: Message
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Handler:
    """How one method is answered: the request's message, and who makes a reply of it.

    What ``answer`` raises of the house's errors goes to the caller; anything else is logged and told as
    Internal.
    """

    request: type[Message]
    answer: Callable[[Any], Awaitable[Message | Reply]]


@dataclass(frozen=True, slots=True)
class StreamHandler:
    """How a method is answered both of whose sides stream; errors are told as those of a :class:`Handler`."""

    converse: Callable[[StreamEnd], Awaitable[None]]


Methods = Mapping[tuple[str, str], Handler | StreamHandler]
"""By full service name and method name."""


class TtrpcServer:
    """Serves methods on a socket that is bound and listens already; an async context manager.

    Leaving it closes the socket and all connections and cancels what is under way.
    """

    def __init__(self, listener: socket.socket | None, methods: Methods, grace: float = 0.0) -> None:
        """
        :param listener: None where connections come by :meth:`take`
        :param grace: seconds that streams under way get to end, and again to be sent, when all is over
        """
        self._listener = listener
        self._methods = methods
        self._grace = grace
        self._connections: set[_Connection] = set()
        self._server: asyncio.AbstractServer | None = None

    async def __aenter__(self) -> Self:
        if self._listener is not None:
            self._listener.setblocking(False)
            self._server = await asyncio.get_running_loop().create_unix_server(
                lambda: _Connection(self._methods, self._connections), sock=self._listener
            )
        return self

    async def take(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted elsewhere."""
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: _Connection(self._methods, self._connections), connection
        )

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        connections = list(self._connections)
        if talks := [talk for connection in connections for talk in connection.talks()]:
            await asyncio.wait(talks, timeout=self._grace)
        for connection in connections:
            connection.end()
        for connection in connections:
            await connection.idle()
        if talks:
            await asyncio.wait([connection.lost for connection in connections], timeout=self._grace)


class _Connection(asyncio.Protocol):
    def __init__(self, methods: Methods, connections: set[_Connection]) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._methods = methods
        self._all = connections
        self._frames = FrameReader()
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._streams: dict[int, StreamEnd] = {}
        self._paused = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        for call in self._calls.values():
            call.cancel()
        for stream in self._streams.values():
            stream.finish(Unavailable("the caller is gone"))
        self.lost.set_result(None)

    def pause_writing(self) -> None:
        """A caller that does not read gets no more answered until it does."""
        for stream in self._streams.values():
            stream.hold()
        if self._transport is not None and not self._streams:
            self._transport.pause_reading()
            self._paused = True

    def resume_writing(self) -> None:
        for stream in self._streams.values():
            stream.go_on()
        if self._transport is not None and self._paused and not self._transport.is_closing():
            self._transport.resume_reading()
        self._paused = False

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._take(frame)
        except FrameError as error:
            log.warning("a connection is cut off: %s", error)
            self.end()

    def end(self) -> None:
        """Close the connection and cancel its calls."""
        if self._transport is not None:
            self._transport.close()
        for call in self._calls.values():
            call.cancel()

    def talks(self) -> list[asyncio.Task[None]]:
        """The calls that are streams."""
        return [self._calls[number] for number in self._streams]

    async def idle(self) -> None:
        """Return when no call is under way any more."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._calls.values(), return_exceptions=True)

    def _take(self, frame: Frame) -> None:
        if frame.type == FrameType.DATA and frame.stream in self._streams:
            stream = self._streams[frame.stream]
            if not frame.flags & Flag.NO_DATA:
                stream.put(frame.payload)
            if frame.flags & Flag.REMOTE_CLOSED:
                stream.no_more()
            return
        if frame.type != FrameType.REQUEST:
            return  # more of a stream that was refused, or of a kind that later versions have
        if frame.stream % 2 == 0 or frame.stream in self._calls:
            self._refuse(frame.stream, InvalidArgument(f"{frame.stream} is no number for a new stream"))
            return
        try:
            request = request_pb2.Request.FromString(frame.payload)
            handler = self._handler(request, frame)
        except DecodeError as error:
            self._refuse(frame.stream, InvalidArgument(f"malformed request: {error}"))
            return
        except OrlopError as error:
            self._refuse(frame.stream, error)
            return
        if isinstance(handler, StreamHandler):
            # Here and not in its task: the next frame may be of this stream already.
            assert self._transport is not None
            self._streams[frame.stream] = StreamEnd(self._transport, frame.stream)
        call = asyncio.get_running_loop().create_task(self._answer(frame.stream, request, handler))
        self._calls[frame.stream] = call
        call.add_done_callback(lambda _: self._over(frame.stream))

    def _over(self, number: int) -> None:
        self._calls.pop(number, None)
        if number in self._streams:
            self._streams.pop(number).finish()

    def _handler(self, request: request_pb2.Request, frame: Frame) -> Handler | StreamHandler:
        handler = self._methods.get((request.service, request.method))
        if handler is None:
            raise Unimplemented(f"/{request.service}/{request.method} is not served here")
        opens = bool(frame.flags & Flag.REMOTE_OPEN) and not frame.flags & Flag.REMOTE_CLOSED
        if opens is not isinstance(handler, StreamHandler):
            kind = "a stream" if opens else "a single call"
            raise Unimplemented(f"/{request.service}/{request.method} is not served as {kind}")
        return handler

    async def _answer(
        self, number: int, request: request_pb2.Request, handler: Handler | StreamHandler
    ) -> None:
        try:
            limit = request.timeout_nano / 1e9 if request.timeout_nano > 0 else None
            async with asyncio.timeout(limit):
                if isinstance(handler, StreamHandler):
                    await handler.converse(self._streams[number])
                    self._send(number, request_pb2.Response())
                    return
                message = handler.request()
                message.ParseFromString(request.payload)
                answer = await handler.answer(message)
            reply = answer if isinstance(answer, Reply) else Reply(answer, {})
            response = request_pb2.Response(payload=reply.message.SerializeToString())
            response.metadata.extend(_pairs(reply.metadata))
            self._send(number, response)
        except OrlopError as error:
            self._refuse(number, error)
        except DecodeError as error:
            self._refuse(number, InvalidArgument(f"malformed request: {error}"))
        except TimeoutError:
            self._refuse(number, DeadlineExceeded("the caller's deadline has passed"))
        except Exception as error:
            log.exception("a call failed")
            self._refuse(number, Internal(f"{type(error).__name__}: {error}"))

    def _refuse(self, stream: int, error: OrlopError) -> None:
        self._send(stream, request_pb2.Response(status=status_of(error), metadata=_pairs(details_of(error))))

    def _send(self, stream: int, response: request_pb2.Response) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        frame = Frame(stream, FrameType.RESPONSE, 0, response.SerializeToString())
        try:
            self._transport.write(frame.pack())
        except InvalidArgument as error:
            self._refuse(stream, error)


def _pairs(metadata: Mapping[str, str]) -> list[request_pb2.KeyValue]:
    return [request_pb2.KeyValue(key=key, value=value) for key, value in metadata.items()]
