"""A shim's services by ttrpc: for our daemon, and for a containerd that knows no gRPC shims."""

from __future__ import annotations

import functools
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass

from orlop_protos.containerd.task.v3 import shim_pb2
from orlop_protos.orlop.shim.v1 import shim_pb2 as api
from orlopd.plugin.errors import OrlopError

from ...ttrpc import Handler, Methods, Reply, StreamEnd, StreamHandler
from ..wire import unpack_error
from .service import ShimService, TaskService

SERVICES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
"""Two names of one service: their messages are the same."""
_OWN = api.DESCRIPTOR.services_by_name["ShimService"]
_TASK = shim_pb2.DESCRIPTOR.services_by_name["Task"]


class _Context:
    """As much of a gRPC call's context as the services use."""

    def __init__(self) -> None:
        self.trailing: dict[str, str] = {}

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing: Any = ()) -> NoReturn:
        raise unpack_error(code.name, details, trailing)

    def set_trailing_metadata(self, trailing: Any) -> None:
        self.trailing |= {key: value.decode(errors="replace") for key, value in trailing}


class _StreamContext(_Context):
    """The same, of a call both of whose sides stream."""

    def __init__(self, stream: StreamEnd, kind: type[Any]) -> None:
        super().__init__()
        self._stream = stream
        self._kind = kind

    async def read(self) -> Any:
        message = await self._stream.read(self._kind)
        return grpc.aio.EOF if message is None else message

    async def write(self, message: Any) -> None:
        await self._stream.write(message)


def methods(task: TaskService, shim: ShimService | None = None) -> Methods:
    """What a :class:`~orlop_plugins.ttrpc.TtrpcServer` serves for a shim.

    :param shim: what there is for our daemon; without, nobody but a containerd calls
    """
    found: dict[tuple[str, str], Handler | StreamHandler] = {
        (name, method.name): Handler(
            GetMessageClass(method.input_type),
            functools.partial(_answer if shim else _answer_containerd, getattr(task, method.name)),
        )
        for name in SERVICES
        for method in _TASK.methods
    }
    if shim is not None:
        for method in _OWN.methods:
            key, kind = (_OWN.full_name, method.name), GetMessageClass(method.input_type)
            if method.client_streaming and method.server_streaming:
                converse = functools.partial(_converse, getattr(shim, method.name), kind)
                found[key] = StreamHandler(converse)
            elif not method.server_streaming:
                found[key] = Handler(kind, functools.partial(_answer, getattr(shim, method.name)))
    return found


async def _answer(method: Any, request: Any) -> Reply:
    context = _Context()
    return Reply(await method(request, context), context.trailing)


async def _converse(method: Any, kind: type[Any], stream: StreamEnd) -> None:
    await method(None, _StreamContext(stream, kind))


async def _answer_containerd(method: Any, request: Any) -> Any:
    try:
        return await method(request, _Context())
    except OrlopError as error:
        if error.hint:  # a status has one text
            raise type(error)(f"{error.message} ({error.hint})", reason=error.reason) from error
        raise
