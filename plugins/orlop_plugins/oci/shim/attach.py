"""An attached client's two directions, between a gRPC stream and a process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any

import grpc.aio

from orlop_protos.orlop.engine.v1 import stream_pb2 as stream
from orlop_protos.orlop.shim.v1 import shim_pb2 as api
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError

from ..wire import to_timestamp
from .client import Client, Data, End, Item
from .process import Process


async def attach(process: Process, options: api.AttachOptions, context: Any) -> None:
    """Serve one client until the process ends, the client leaves, or it is cut off.

    A process that is not started yet may be attached to: nothing it writes is missed then.

    :raises OrlopError: what ended the attachment early
    """
    client = process.hub.attach(scrollback=options.scrollback)
    reader = asyncio.create_task(_read(process, options.stdin, client, context))
    try:
        await context.write(api.AttachResponse(attached=api.Attached(terminal=process.stdio.terminal)))
        while True:
            item = await client.take()
            await context.write(api.AttachResponse(output=_message(item)))
            if not isinstance(item, Data):
                return
    finally:
        reader.cancel()
        client.close()


async def _read(process: Process, stdin: bool, client: Client, context: Any) -> None:
    window: tuple[int, int] | None = None
    try:
        while True:
            request = await context.read()
            if request is grpc.aio.EOF:
                return
            if request.WhichOneof("request") != "input":
                raise InvalidArgument("only the first message of an Attach may carry options")
            kind = request.input.WhichOneof("input")
            if kind == "resize":
                window = (request.input.resize.width, request.input.resize.height)
            if kind in ("resize", "stdin") and window is not None:
                process.focus(client, *window)
            if await _take(process, stdin, request.input):
                client.leave()
                return
    except OrlopError as error:
        client.fail(error)


async def _take(process: Process, stdin: bool, message: stream.StreamInput) -> bool:
    """Do what a client said; True when it wants to leave."""
    kind = message.WhichOneof("input")
    if kind in ("stdin", "stdin_end"):
        if not stdin:
            raise FailedPrecondition("standard input was not asked for in the attach options")
        writer = await process.input()
        if writer is None:
            return False
        if kind == "stdin":
            await writer.write(message.stdin)
        else:
            writer.end()
    elif kind == "resize":
        process.resize(message.resize.width, message.resize.height)
    elif kind == "signal":
        with contextlib.suppress(NotFound):  # it has just ended; the client is about to learn so
            process.signal(signal_number(message.signal.name))
    return kind == "detach"


def signal_number(name: str) -> int:
    """The number of a signal by name ("TERM", "SIGTERM") or decimal number.

    :raises InvalidArgument: there is none
    """
    text = name.strip().upper().removeprefix("SIG")
    if text.isdigit() and 0 < int(text) <= signal.SIGRTMAX:
        return int(text)
    try:
        return signal.Signals[f"SIG{text}"].value
    except KeyError as error:
        raise InvalidArgument(f"there is no signal {name[:40]!r}") from error


def _message(item: Item) -> stream.StreamOutput:
    if isinstance(item, Data):
        if item.stream == 2:
            return stream.StreamOutput(stderr=item.data)
        return stream.StreamOutput(stdout=item.data)
    if isinstance(item, End):
        ended = item.ended
        return stream.StreamOutput(
            exit=stream.ProcessExit(code=ended.code, at=to_timestamp(ended.at), reason=item.reason)
        )
    return stream.StreamOutput(detached=stream.Detached())
