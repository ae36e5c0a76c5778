"""Attachments of the daemon's to a process: two directions of messages, and what they say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import anyio.lowlevel
import grpc
import grpc.aio

from orlop_protos.orlop.engine.v1 import stream_pb2 as stream
from orlop_protos.orlop.shim.v1 import shim_pb2 as api
from orlopd.plugin.errors import FailedPrecondition, OrlopError, Unavailable
from orlopd.plugin.runtime import Detach, Detached, Exit, Input, Output, Resize, SendSignal, Stdin

from ..ttrpc import TtrpcStream
from .wire import error_of, from_timestamp, unpack_error, unreachable

_STDIN_PIECE = 256 << 10


class AttachCall(Protocol):
    """A call of ``ShimService.Attach``, by whichever protocol."""

    async def write(self, message: api.AttachRequest) -> None:
        """Send. Where the call is over nothing happens: :meth:`read` says how it ended."""
        ...

    async def read(self) -> api.AttachResponse:
        """The next message. :raises OrlopError: there is none, and why"""
        ...

    def close(self) -> None:
        """End the call. May be called twice."""
        ...


async def begin(call: AttachCall, options: api.AttachOptions) -> tuple[AttachCall, api.Attached]:
    """Say what is wanted; the call and the first answer.

    :raises OrlopError: it is refused; the call is closed then
    """
    try:
        await call.write(api.AttachRequest(options=options))
        return call, (await call.read()).attached
    except BaseException:
        call.close()
        raise


class StreamAttachCall:
    """By ttrpc, on a connection of its own."""

    def __init__(self, connection: TtrpcStream, closed: Callable[[], None]) -> None:
        """:param closed: called when the call is closed"""
        self._stream = connection
        self._on_close = closed

    async def write(self, message: api.AttachRequest) -> None:
        try:
            await self._stream.write(message)
        except Unavailable:
            return

    async def read(self) -> api.AttachResponse:
        with unreachable():
            response = await self._stream.read(api.AttachResponse)
        if response is None:
            raise Unavailable("the shim cannot be reached", reason="SHIM_UNREACHABLE")
        return response

    def close(self) -> None:
        self._stream.abort()
        self._on_close()


class GrpcAttachCall:
    """By gRPC, to a shim that knows no other way."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def write(self, message: api.AttachRequest) -> None:
        try:
            async with _scoped():
                await self._call.write(message)
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
            return

    async def read(self) -> api.AttachResponse:
        # Iterated and not ``read()``: a write that comes too late marks the call as failed, after which
        # ``read()`` keeps back what has arrived, the exit of the process at its end.
        try:
            async with _scoped():
                return await anext(aiter(self._call))
        except StopAsyncIteration:
            code, details = await self._call.code(), await self._call.details()
            raise _failure(code, details, await self._call.trailing_metadata()) from None
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error

    def close(self) -> None:
        self._call.cancel()


def _failure(code: grpc.StatusCode, details: str | None, trailing: Any) -> OrlopError:
    if code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return Unavailable("the shim cannot be reached", reason="SHIM_UNREACHABLE")
    return unpack_error(code.name, details or "", trailing)


@asynccontextmanager
async def _scoped() -> AsyncIterator[None]:
    """Let a cancel scope see its own cancellation: a call that is cancelled raises a fresh error instead,
    which anyio takes for somebody else's and lets through."""
    try:
        yield
    except asyncio.CancelledError:
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise


class ShimAttachment:
    """See :class:`orlopd.plugin.runtime.Attachment`."""

    def __init__(self, call: AttachCall, terminal: bool, stdin: bool) -> None:
        self._call = call
        self._terminal = terminal
        self._stdin = stdin
        self._ended = False
        self._writing = asyncio.Lock()

    @property
    def terminal(self) -> bool:
        return self._terminal

    async def send(self, item: Input) -> None:
        if isinstance(item, Stdin):
            if not self._stdin:
                raise FailedPrecondition("standard input was not asked for")
            if self._ended:
                raise FailedPrecondition("standard input has ended", reason="STDIN_ENDED")
            for at in range(0, len(item.data), _STDIN_PIECE):
                await self._write(stream.StreamInput(stdin=item.data[at : at + _STDIN_PIECE]))
            if item.end:
                self._ended = True
                await self._write(stream.StreamInput(stdin_end=stream.StdinEnd()))
        elif isinstance(item, Resize):
            await self._write(
                stream.StreamInput(resize=stream.WindowSize(width=item.width, height=item.height))
            )
        elif isinstance(item, SendSignal):
            await self._write(stream.StreamInput(signal=stream.Signal(name=str(item.number))))
        else:
            assert isinstance(item, Detach)
            await self._write(stream.StreamInput(detach=stream.Detach()))

    async def output(self) -> AsyncIterator[Output | Exit | Detached]:
        while True:
            item = _item((await self._call.read()).output)
            yield item
            if not isinstance(item, Output):
                return

    async def _write(self, message: stream.StreamInput) -> None:
        async with self._writing:
            await self._call.write(api.AttachRequest(input=message))


def _item(output: stream.StreamOutput) -> Output | Exit | Detached:
    kind = output.WhichOneof("output")
    if kind == "stdout":
        return Output(1, output.stdout)
    if kind == "stderr":
        return Output(2, output.stderr)
    if kind == "exit":
        return Exit(output.exit.code, from_timestamp(output.exit.at), output.exit.reason)
    return Detached()
