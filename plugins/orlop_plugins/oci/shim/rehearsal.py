"""A life of a shim, played in the fork server before the first fork.

What Python does when code first runs and messages are first made (caches filled, code adapted, types
completed) is written into memory: done once here, every shim shares it and begins sooner.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.containerd.task.v3 import shim_pb2 as task
from orlop_protos.orlop.shim.v1 import shim_pb2 as api
from orlop_protos.ttrpc import request_pb2

from ...ttrpc import TtrpcServer
from ...ttrpc.frames import Flag, Frame, FrameReader, FrameType
from ..journal import FILE, Journal
from .answer import methods
from .reaper import Reaper
from .service import Shim, ShimService, TaskService

log = logging.getLogger(__name__)

_SPEC = {"process": {"args": ["true"]}, "linux": {"namespaces": [{"type": "pid"}]}}
_TASK = "containerd.task.v3.Task"
_SHIM = "orlop.shim.v1.ShimService"
_DEADLINE = 5.0


def play() -> None:
    """Play it; no thread and no child is left. What goes wrong is of no consequence but memory."""
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="orlop-") as folder:
            asyncio.run(asyncio.wait_for(live(Path(folder)), _DEADLINE))
    except Exception as error:
        logging.disable(logging.NOTSET)
        log.warning("the rehearsal of a shim failed, shims will take more memory: %r", error)
    finally:
        logging.disable(logging.NOTSET)


async def live(folder: Path) -> list[request_pb2.Response]:
    """The answers of a shim to what a daemon asks of it in a container's life; its program and its runtime
    are others that are on every machine."""
    reaper = Reaper()
    reaper.install()
    journal = Journal(folder / FILE)
    pid = 0
    try:
        pid, _ = reaper.spawn(["sleep", "60"])
        (folder / "init.pid").write_text(str(pid))
        (folder / "config.json").write_text(json.dumps(_SPEC))
        shim = Shim("orlop", folder, 1.0, reaper, journal)
        served = methods(TaskService(shim), ShimService(shim, _nowhere))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        with ours:
            async with TtrpcServer(None, served) as server:
                await server.take(theirs)
                caller = _Caller(ours)
                return [await caller.call(*each) for each in _lines(folder)]
    finally:
        journal.release()
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _lines(folder: Path) -> list[tuple[str, str, Any]]:
    options = oci_pb2.Options(binary_name="true")
    packed = AnyMessage(type_url=options.DESCRIPTOR.full_name, value=options.SerializeToString())
    return [
        (_TASK, "Connect", task.ConnectRequest(id="a")),
        (_TASK, "State", task.StateRequest(id="a")),  # which is an error
        (_TASK, "Create", task.CreateTaskRequest(id="a", bundle=str(folder), options=packed)),
        (_TASK, "Start", task.StartRequest(id="a")),
        (_SHIM, "NextEvents", api.NextEventsRequest()),
        (_TASK, "State", task.StateRequest(id="a")),
        (_TASK, "Kill", task.KillRequest(id="a", signal=signal.SIGKILL)),
        (_TASK, "Wait", task.WaitRequest(id="a")),
        (_TASK, "Delete", task.DeleteRequest(id="a")),
    ]


async def _nowhere() -> str:
    return ""


class _Caller:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._frames = FrameReader()
        self._stream = -1

    async def call(self, service: str, method: str, request: Any) -> request_pb2.Response:
        loop = asyncio.get_running_loop()
        self._stream += 2
        message = request_pb2.Request(service=service, method=method, payload=request.SerializeToString())
        frame = Frame(self._stream, FrameType.REQUEST, Flag.REMOTE_CLOSED, message.SerializeToString())
        await loop.sock_sendall(self._connection, frame.pack())
        while True:
            for answer in self._frames.feed(await loop.sock_recv(self._connection, 65536)):
                return request_pb2.Response.FromString(answer.payload)
