"""Between what goes to and comes from processes and the SDK's values."""

from __future__ import annotations

from typing import Any

from orlop import values as v
from orlop._image_messages import progress
from orlop._times import when
from orlop_protos.orlop.engine.v1 import stream_pb2


def exit_(m: stream_pb2.ProcessExit) -> v.Exit:
    return v.Exit(code=m.code, at=when(m, "at"), reason=m.reason)


def window_message(w: v.WindowSize | None) -> stream_pb2.WindowSize | None:
    return w and stream_pb2.WindowSize(width=w.width, height=w.height)


def output(m: stream_pb2.StreamOutput) -> v.Output | v.Exit | v.Detached | None:
    match m.WhichOneof("output"):
        case "stdout":
            return v.Output(m.stdout, v.LogStream.STDOUT)
        case "stderr":
            return v.Output(m.stderr, v.LogStream.STDERR)
        case "exit":
            return exit_(m.exit)
        case "detached":
            return v.Detached()
        case _:
            return None


def session_event(m: Any) -> v.SessionEvent | None:
    """What a response of Run, Start, Attach or Exec says; None for what a newer daemon adds."""
    match m.WhichOneof("response"):
        case "output":
            return output(m.output)
        case "started":
            return v.Started(pid=m.started.pid, exec_id=m.started.exec_id)
        case "attached":
            return v.Started(terminal=m.attached.terminal)
        case "created":
            return v.Created(m.created.id, m.created.name)
        case "progress":
            return progress(m.progress)
        case _:
            return None
