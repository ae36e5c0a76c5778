"""A shim's services by ttrpc: for our daemon, and for a containerd that knows no gRPC shims."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NoReturn

import grpc
from google.protobuf.message_factory import GetMessageClass

from orlop_protos.containerd.task.v3 import shim_pb2
from orlop_protos.orlop.shim.v1 import shim_pb2 as api
from orlopd.plugin.errors import OrlopError

from ...ttrpc import Handler, Reply
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


def methods(task: TaskService, shim: ShimService | None = None) -> Mapping[tuple[str, str], Handler]:
    """What a :class:`~orlop_plugins.ttrpc.TtrpcServer` serves for a shim.

    :param shim: what there is for our daemon; without, nobody but a containerd calls
    """
    found = {
        (name, method.name): Handler(
            GetMessageClass(method.input_type),
            functools.partial(_answer if shim else _answer_containerd, getattr(task, method.name)),
        )
        for name in SERVICES
        for method in _TASK.methods
    }
    if shim is not None:
        for method in _OWN.methods:
            if not (method.client_streaming or method.server_streaming):
                answer = functools.partial(_answer, getattr(shim, method.name))
                found[_OWN.full_name, method.name] = Handler(GetMessageClass(method.input_type), answer)
    return found


async def _answer(method: Any, request: Any) -> Reply:
    context = _Context()
    return Reply(await method(request, context), context.trailing)


async def _answer_containerd(method: Any, request: Any) -> Any:
    try:
        return await method(request, _Context())
    except OrlopError as error:
        if error.hint:  # a status has one text
            raise type(error)(f"{error.message} ({error.hint})", reason=error.reason) from error
        raise
