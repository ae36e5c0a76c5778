"""containerd.services.streaming.v1, and the byte streams with windows that travel over it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
from google.protobuf import any_pb2, empty_pb2
from google.protobuf.message import DecodeError, Message

from orlop_protos.containerd.services.streaming.v1 import streaming_pb2
from orlop_protos.containerd.types.transfer import streaming_pb2 as frames_pb2
from orlopd.core.flow import task_group
from orlopd.core.scope import Scope
from orlopd.plugin.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from orlopd.services.scope import scope_of

_PIECE = 32 << 10
WINDOW = 2 * _PIECE
"""How far a sender may be ahead of its receiver, as containerd has it."""
_MOST_WINDOW = (1 << 31) - 1
_LONGEST_ID = 1024
_MOST_STREAMS = 1000
_INIT_SECONDS = 30.0
_BUFFERED = 4


class Stream:
    """One open stream of a client: messages either way, in any order."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.arrived, self._waiting = anyio.create_memory_object_stream[any_pb2.Any](_BUFFERED)
        self.closed = anyio.Event()
        self.broken = False
        self._sending = anyio.Lock()

    async def send(self, message: Message) -> None:
        """Send a message to the client. :raises Aborted: the client is gone"""
        async with self._sending:
            if self.closed.is_set():
                raise _gone()
            try:
                await self._context.write(packed(message))
            except Exception:
                self.broken = True
                raise _gone() from None

    async def receive(self) -> any_pb2.Any | None:
        """The client's next message, or None after its last. :raises Aborted: the client is gone"""
        try:
            return await self._waiting.receive()
        except anyio.EndOfStream:
            if self.broken:
                raise _gone() from None
            return None

    def close(self) -> None:
        """End the stream: the client reads its end."""
        self.closed.set()


class Streams:
    """The streams that are open, by namespace and id."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Stream] = {}

    def add(self, scope: Scope, id: str, stream: Stream) -> None:
        """:raises AlreadyExists: there is one of this id"""
        key = (scope.namespace, id)
        if not id or len(id) > _LONGEST_ID:
            raise InvalidArgument(f"a stream's id has 1 to {_LONGEST_ID} characters: invalid argument")
        if key in self._open:
            raise AlreadyExists(f"stream {id!r} already exists: already exists", resource=f"stream {id}")
        if len(self._open) >= _MOST_STREAMS:
            raise ResourceExhausted(f"there are {_MOST_STREAMS} streams open already; close some")
        self._open[key] = stream

    def remove(self, scope: Scope, id: str) -> None:
        """Forget a stream."""
        self._open.pop((scope.namespace, id), None)

    def get(self, scope: Scope, id: str) -> Stream:
        """:raises NotFound: no open stream has this id"""
        stream = self._open.get((scope.namespace, id))
        if stream is None:
            raise NotFound(f"stream {id[:128]!r} not found: not found", resource=f"stream {id[:128]}")
        return stream

    async def serve(self, requests: AsyncIterator[any_pb2.Any], context: Any) -> None:
        """One call of Streaming.Stream, from its registration until who uses it closes it."""
        scope = scope_of(context)
        messages = aiter(requests)
        try:
            with anyio.fail_after(_INIT_SECONDS):
                first = await anext(messages, None)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the stream's first message did not come in {_INIT_SECONDS:g} s"
            ) from None
        init = unpacked(first, streaming_pb2.StreamInit) if first is not None else None
        if init is None:
            raise InvalidArgument("a stream begins with its StreamInit: invalid argument")
        stream = Stream(context)
        self.add(scope, init.id, stream)
        finished = False

        async def listen() -> None:
            async for message in messages:
                await stream.arrived.send(message)
            stream.arrived.close()

        try:
            await context.write(packed(empty_pb2.Empty()))
            async with task_group() as group:
                group.start_soon(listen)
                await stream.closed.wait()
                finished = True
                group.cancel_scope.cancel()
        finally:
            stream.broken = stream.broken or not finished
            stream.closed.set()
            stream.arrived.close()
            self.remove(scope, init.id)


def packed(message: Message) -> any_pb2.Any:
    """A message in an Any, with its bare name for a type URL, as containerd writes it."""
    return any_pb2.Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def unpacked(message: any_pb2.Any, kind: Any) -> Any:
    """The message of this kind in an Any; None for one of another kind.

    :raises InvalidArgument: it is malformed
    """
    if message.type_url.rpartition("/")[2] != kind.DESCRIPTOR.full_name:
        return None
    try:
        return kind.FromString(message.value)
    except DecodeError:
        raise InvalidArgument(f"malformed {kind.DESCRIPTOR.full_name}: invalid argument") from None


async def received(stream: Stream) -> AsyncGenerator[bytes]:
    """The bytes that a client sends, which it may send as they are read here.

    :raises Aborted: the client is gone before its end
    :raises InvalidArgument: it sends something else, or more than its window
    """
    window = 0
    while True:
        if window < WINDOW:
            await stream.send(frames_pb2.WindowUpdate(update=WINDOW))
            window += WINDOW
        message = await stream.receive()
        if message is None:
            return
        data = unpacked(message, frames_pb2.Data)
        if data is None:
            continue  # as containerd does with what it does not know
        window -= len(data.data)
        if window < -_PIECE:
            raise InvalidArgument("more was sent than the window allows: invalid argument")
        if data.data:
            yield data.data


async def send_all(stream: Stream, pieces: AsyncGenerator[bytes]) -> None:
    """Send bytes to a client as fast as its windows allow.

    :raises Aborted: the client is gone
    """
    window, opened = 0, anyio.Event()

    async def listen() -> None:
        nonlocal window, opened
        while (message := await stream.receive()) is not None:
            update = unpacked(message, frames_pb2.WindowUpdate)
            if update is not None and update.update > 0:
                window = min(window + update.update, _MOST_WINDOW)
                opened.set()
                opened = anyio.Event()

    async with task_group() as group, aclosing(pieces):
        group.start_soon(listen)
        async for piece in pieces:
            view, start = memoryview(piece), 0
            while start < len(view):
                if window <= 0:
                    await opened.wait()
                    continue
                part = view[start : start + min(_PIECE, window)]
                await stream.send(frames_pb2.Data(data=bytes(part)))
                window -= len(part)
                start += len(part)
        group.cancel_scope.cancel()


def _gone() -> Aborted:
    return Aborted("the client closed a stream of this transfer", reason="STREAM_CLOSED")
