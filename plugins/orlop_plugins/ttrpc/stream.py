"""Streams: calls in which both sides say any number of messages, each at its own pace.

ttrpc has no flow control of its own. A stream of ours has a connection to itself, so that who does not read
it holds up nobody but the one who writes to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, TypeVar

import anyio
from google.protobuf.message import DecodeError, Message

from orlop_protos.ttrpc import request_pb2
from orlopd.plugin.errors import DataLoss, OrlopError, Unavailable

from .departure import Departure
from .frames import Flag, Frame, FrameError, FrameReader, FrameType, decoded
from .status import error_of

M = TypeVar("M", bound=Message)

_MOST_WAITING = 1 << 20
"""With as many bytes that came and nobody took, the connection is not read."""
_ITS_OWN = 64
"""What a message takes beside its bytes, about."""
_HIGH_WATER = 256 << 10


class StreamEnd:
    """One side of a stream: what came and was not taken yet, and the way out. Its connection feeds it.

    A connection that is not read because too much waits does not notice either that the other side goes. That
    is watched for meanwhile, and what is on its way then is taken all the same: it is not much.
    """

    def __init__(self, transport: asyncio.Transport, number: int) -> None:
        self._transport = transport
        self._number = number
        self._came: deque[bytes] = deque()
        self._waiting = 0
        self._limited = True
        self._departure: Departure | None = None
        self._last = False
        self._over = False
        self._error: OrlopError | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        transport.set_write_buffer_limits(high=_HIGH_WATER)

    # For the connection.

    def put(self, payload: bytes) -> None:
        """A message came."""
        self._came.append(payload)
        self._waiting += len(payload) + _ITS_OWN
        self._news.set()
        if self._waiting >= _MOST_WAITING and self._limited and not self._transport.is_closing():
            self._pause()

    def no_more(self) -> None:
        """The other side has no more to say; it may listen yet."""
        self._last = True
        self._news.set()

    def finish(self, error: OrlopError | None = None) -> None:
        """It is over, or because of ``error``. What came before is there to be read."""
        if not self._over:
            self._over = True
            self._error = None if self._last else error
        self._news.set()
        self._room.set()
        self._resume()

    def hold(self) -> None:
        """The other side does not read fast enough."""
        if not self._over:
            self._room.clear()

    def go_on(self) -> None:
        """There is room again."""
        self._room.set()

    # For who speaks.

    def take_all(self) -> None:
        """Have all come that is on its way, however much waits: for an end that will not wait itself."""
        self._limited = False
        self._resume()

    async def read(self, kind: type[M]) -> M | None:
        """The next message; None after the last.

        :raises DataLoss: it is no such message
        :raises OrlopError: what the other side ended the stream with, or Unavailable where it just went
        """
        while not self._came:
            if self._over or self._last:
                if self._error is not None:
                    raise self._error
                return None
            self._news.clear()
            await self._news.wait()
        payload = self._came.popleft()
        self._waiting -= len(payload) + _ITS_OWN
        if self._waiting < _MOST_WAITING:
            self._resume()
        return decoded(kind, payload, "the other side")

    async def write(self, message: Message) -> None:
        """Send a message, when there is room for it.

        :raises Unavailable: the stream is over
        """
        await self._room.wait()
        if self._over or self._transport.is_closing():
            raise Unavailable("the stream is over", reason="TTRPC_UNREACHABLE")
        frame = Frame(self._number, FrameType.DATA, Flag(0), message.SerializeToString())
        self._transport.write(frame.pack())

    def _pause(self) -> None:
        if self._departure is None:
            self._transport.pause_reading()
            self._departure = Departure(self._transport, self.take_all)

    def _resume(self) -> None:
        if self._departure is not None:
            self._departure.close()
            self._departure = None
            if not self._transport.is_closing():
                self._transport.resume_reading()


class TtrpcStream(asyncio.Protocol):
    """The calling side of a stream, on a connection of its own. Made by :meth:`open`; end it with
    :meth:`abort`."""

    _NUMBER = 1

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._frames = FrameReader()
        self._end: StreamEnd | None = None
        self._transport: asyncio.Transport | None = None
        self._closed = asyncio.Event()

    @classmethod
    async def open(cls, path: str, service: str, method: str, deadline: float) -> TtrpcStream:
        """Connect to a unix socket and call a method both of whose sides stream.

        :param deadline: seconds to connect in
        :raises Unavailable: nobody listens there
        """
        loop = asyncio.get_running_loop()
        try:
            with anyio.fail_after(deadline):
                transport, stream = await loop.create_unix_connection(lambda: cls(path), path)
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"nobody answers at {path}: {error}", reason="TTRPC_UNREACHABLE") from error
        request = request_pb2.Request(service=service, method=method)
        frame = Frame(cls._NUMBER, FrameType.REQUEST, Flag.REMOTE_OPEN, request.SerializeToString())
        transport.write(frame.pack())
        return stream

    async def read(self, kind: type[M]) -> M | None:
        """As :meth:`StreamEnd.read`."""
        return await self._side.read(kind)

    async def write(self, message: Message) -> None:
        """As :meth:`StreamEnd.write`."""
        await self._side.write(message)

    def take_all(self) -> None:
        """As :meth:`StreamEnd.take_all`."""
        self._side.take_all()

    def abort(self) -> None:
        """End the connection. May be called twice."""
        if self._transport is not None:
            self._transport.abort()

    async def closed(self) -> None:
        """Return when the connection has ended, from whichever side."""
        await self._closed.wait()

    @property
    def _side(self) -> StreamEnd:
        assert self._end is not None
        return self._end

    # --- asyncio.Protocol ----------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._end = StreamEnd(transport, self._NUMBER)

    def pause_writing(self) -> None:
        self._side.hold()

    def resume_writing(self) -> None:
        self._side.go_on()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._take(frame)
        except (FrameError, DecodeError) as error:
            self._side.finish(DataLoss(f"{self._peer} does not speak ttrpc: {error}"))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        why = f"the connection to {self._peer} is closed"
        self._side.finish(Unavailable(f"{why}: {exc}" if exc else why, reason="TTRPC_UNREACHABLE"))
        self._closed.set()

    def _take(self, frame: Frame) -> None:
        if frame.stream != self._NUMBER:
            return
        if frame.type == FrameType.DATA:
            if not frame.flags & Flag.NO_DATA:
                self._side.put(frame.payload)
            if frame.flags & Flag.REMOTE_CLOSED:
                self._side.no_more()
        elif frame.type == FrameType.RESPONSE:
            response = request_pb2.Response.FromString(frame.payload)
            told = {each.key: each.value for each in response.metadata}
            self._side.finish(error_of(response.status, told) if response.status.code else None)
