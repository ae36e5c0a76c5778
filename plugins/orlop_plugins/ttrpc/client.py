"""The calling side of one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

import anyio.lowlevel
from google.protobuf.message import DecodeError, Message

from orlop_protos.ttrpc import request_pb2
from orlopd.plugin.errors import DataLoss, DeadlineExceeded, OrlopError, Unavailable

from .frames import Flag, Frame, FrameError, FrameReader, FrameType, decoded
from .status import error_of

M = TypeVar("M", bound=Message)


class TtrpcClient(asyncio.Protocol):
    """Makes unary calls, any number at once. Made by :meth:`connect`; end it with :meth:`close`."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._frames = FrameReader()
        self._calls: dict[int, asyncio.Future[request_pb2.Response]] = {}
        self._next = 1
        self._transport: asyncio.Transport | None = None
        self._closed = asyncio.get_running_loop().create_future()
        self._why = f"the connection to {peer} is closed"

    @classmethod
    async def connect(cls, path: str, deadline: float = 10.0) -> TtrpcClient:
        """Connect to a unix socket; a path that begins with a NUL is an abstract name.

        :param deadline: seconds
        :raises Unavailable: nobody listens there
        """
        loop = asyncio.get_running_loop()
        shown = path.replace("\0", "@")
        try:
            with anyio.fail_after(deadline):
                _, client = await loop.create_unix_connection(lambda: cls(shown), path)
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"nobody answers at {shown}: {error}", reason="TTRPC_UNREACHABLE") from error
        return client

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        reply: type[M],
        *,
        deadline: float | None,
        metadata: Mapping[str, str] | None = None,
    ) -> M:
        """Call a method; its reply.

        :param deadline: seconds, which the peer is told as well; None for no limit
        :raises DeadlineExceeded: no reply came in time
        :raises Unavailable: the connection is or was closed
        :raises OrlopError: what the peer answered instead
        """
        return (await self.ask(service, method, request, reply, deadline=deadline, metadata=metadata))[0]

    async def ask(
        self,
        service: str,
        method: str,
        request: Message,
        reply: type[M],
        *,
        deadline: float | None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[M, Mapping[str, str]]:
        """As :meth:`call`, with the reply's metadata."""
        if self._transport is None or not self.is_open:
            raise Unavailable(self._why, reason="TTRPC_UNREACHABLE")
        message = request_pb2.Request(
            service=service,
            method=method,
            payload=request.SerializeToString(),
            timeout_nano=0 if deadline is None else int(deadline * 1e9),
            metadata=[request_pb2.KeyValue(key=k, value=v) for k, v in (metadata or {}).items()],
        )
        stream = self._next
        frame = Frame(stream, FrameType.REQUEST, Flag.REMOTE_CLOSED, message.SerializeToString()).pack()
        self._next += 2
        answer: asyncio.Future[request_pb2.Response] = asyncio.get_running_loop().create_future()
        self._calls[stream] = answer
        try:
            self._transport.write(frame)
            with anyio.fail_after(deadline):
                response = await answer
        except TimeoutError:
            raise DeadlineExceeded(f"{self._peer} did not answer {method} within {deadline:g} s") from None
        finally:
            self._calls.pop(stream, None)
        told = {each.key: each.value for each in response.metadata}
        if response.status.code:
            raise error_of(response.status, told)
        return decoded(reply, response.payload, self._peer), told

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return self._transport is not None and not self._transport.is_closing()

    async def closed(self) -> None:
        """Return when the connection has ended, from whichever side."""
        await asyncio.shield(self._closed)

    async def close(self) -> None:
        """End the connection; calls under way fail."""
        if self._transport is not None:
            self._transport.close()
            await self.closed()
        await anyio.lowlevel.checkpoint()

    # --- asyncio.Protocol ----------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._take(frame)
        except (FrameError, DecodeError) as error:
            self._end(DataLoss(f"{self._peer} does not speak ttrpc: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Unavailable(f"{self._why}: {exc}" if exc else self._why, reason="TTRPC_UNREACHABLE"))
        if not self._closed.done():
            self._closed.set_result(None)

    def _take(self, frame: Frame) -> None:
        call = self._calls.get(frame.stream)
        if frame.type == FrameType.RESPONSE and call is not None and not call.done():
            call.set_result(request_pb2.Response.FromString(frame.payload))

    def _end(self, error: OrlopError) -> None:
        for call in self._calls.values():
            if not call.done():
                call.set_exception(error)
        if self._transport is not None:
            self._transport.abort()
