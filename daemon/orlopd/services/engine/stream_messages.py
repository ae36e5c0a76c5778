"""What goes to a process and comes from it, between the contract and the core."""

from __future__ import annotations

from orlop_protos.orlop.engine.v1 import stream_pb2
from orlopd.core.signals import parse_signal
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.runtime import Detach, Detached, Exit, Input, Output, Resize, SendSignal, Stdin
from orlopd.services.convert import to_timestamp

MOST_STDIN = 1 << 20
"""The most bytes of a message of input, as the contract says."""


def stream_input(message: stream_pb2.StreamInput) -> Input:
    """:raises InvalidArgument: nothing is said, too much at once, or there is no such signal"""
    match message.WhichOneof("input"):
        case "stdin":
            if len(message.stdin) > MOST_STDIN:
                raise InvalidArgument(
                    f"{len(message.stdin)} bytes of stdin in one message: 1 MiB is the most"
                )
            return Stdin(message.stdin)
        case "stdin_end":
            return Stdin(b"", end=True)
        case "resize":
            return Resize(message.resize.width, message.resize.height)
        case "signal":
            return SendSignal(parse_signal(message.signal.name))
        case "detach":
            return Detach()
        case _:
            raise InvalidArgument("an input says nothing: stdin, stdin_end, resize, signal or detach")


def stream_output(item: Output | Exit | Detached) -> stream_pb2.StreamOutput:
    """What a process says."""
    match item:
        case Output(fd=2):
            return stream_pb2.StreamOutput(stderr=item.data)
        case Output():
            return stream_pb2.StreamOutput(stdout=item.data)
        case Exit():
            return stream_pb2.StreamOutput(exit=process_exit(item))
        case Detached():
            return stream_pb2.StreamOutput(detached=stream_pb2.Detached())


def process_exit(ended: Exit) -> stream_pb2.ProcessExit:
    """How a process ended."""
    return stream_pb2.ProcessExit(
        code=ended.code & 0xFFFFFFFF, at=to_timestamp(ended.at), reason=ended.reason
    )
