"""The pattern of every bidirectional call: options first, then input while output goes out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import anyio

from orlop_protos.orlop.engine.v1 import stream_pb2
from orlopd.core.engine import Session
from orlopd.core.flow import task_group
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument
from orlopd.plugin.runtime import Detached, Exit, Stdin

from .stream_messages import stream_input, stream_output

MOST_CHUNK = 1 << 20
"""The most bytes of a chunk, as the contract says."""
_MOST_DRAINED = 256 << 20
_DRAIN_SECONDS = 5.0

Wrap = Callable[[stream_pb2.StreamOutput], Any]


async def first(requests: AsyncIterator[Any], field: str = "options") -> Any:
    """The options that every request stream begins with.

    :raises InvalidArgument: the stream is empty or begins with something else
    """
    async for request in requests:
        if request.WhichOneof("request") == field:
            return getattr(request, field)
        break
    raise InvalidArgument("the first request must carry options")


async def chunks(requests: AsyncIterator[Any]) -> AsyncGenerator[bytes]:
    """The chunks that follow the options of an upload.

    :raises InvalidArgument: something else comes, or a chunk is too large
    """
    async for request in requests:
        if request.WhichOneof("request") != "chunk":
            raise InvalidArgument("after the options only chunks may come")
        if len(request.chunk) > MOST_CHUNK:
            raise InvalidArgument(f"a chunk of {len(request.chunk)} bytes: 1 MiB is the most")
        yield request.chunk


@asynccontextmanager
async def read_out(requests: AsyncIterator[Any]) -> AsyncGenerator[None]:
    """Before an error goes out, read what the client still sends, within limits.

    A gRPC client whose call ends while it is sending may lose the status: it sees that sending failed and
    makes up one of its own.
    """
    try:
        yield
    except Exception:
        left = _MOST_DRAINED
        with suppress(Exception), anyio.move_on_after(_DRAIN_SECONDS):
            async for request in requests:
                left -= request.ByteSize()
                if left <= 0:
                    break
        raise


async def relay(
    session: Session, requests: AsyncIterator[Any], context: Any, wrap: Wrap, *, ends_input: bool = False
) -> Exit | None:
    """Carry input in and output out until the process has ended or was detached from.

    :param ends_input: the end of the requests is the end of standard input
    :returns: the exit, which is not sent yet; None after a detach
    :raises InvalidArgument: a malformed input
    :raises ResourceExhausted: the client did not read
    """

    async def listen() -> None:
        async for request in requests:
            if request.WhichOneof("request") != "input":
                raise InvalidArgument("after the options only input may come")
            await session.send(stream_input(request.input))
        if ends_input:
            with suppress(FailedPrecondition):  # it has ended already
                await session.send(Stdin(b"", end=True))

    async with task_group() as group:
        group.start_soon(listen)
        async with aclosing(session.output()) as output:
            async for item in output:
                if isinstance(item, Exit):
                    group.cancel_scope.cancel()
                    return item
                await context.write(wrap(stream_output(item)))
                if isinstance(item, Detached):
                    break
        group.cancel_scope.cancel()
    return None
