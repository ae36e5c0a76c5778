"""The task service by ttrpc, for a containerd that knows no gRPC shims."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NoReturn

import grpc
from google.protobuf.message_factory import GetMessageClass

from orlop_protos.containerd.task.v3 import shim_pb2
from orlopd.plugin.errors import OrlopError

from ...ttrpc import Handler
from ..wire import unpack_error
from .service import TaskService

SERVICES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
"""Two names of one service: their messages are the same."""


class _Context:
    """As much of a gRPC call's context as the service uses. Trailing headers have no place in ttrpc."""

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing: Any = ()) -> NoReturn:
        raise unpack_error(code.name, details, trailing)

    def set_trailing_metadata(self, trailing: Any) -> None:
        pass


def methods(service: TaskService) -> Mapping[tuple[str, str], Handler]:
    """What a :class:`~orlop_plugins.ttrpc.TtrpcServer` serves for a shim."""
    described = shim_pb2.DESCRIPTOR.services_by_name["Task"].methods
    return {
        (name, method.name): Handler(
            GetMessageClass(method.input_type), functools.partial(_answer, getattr(service, method.name))
        )
        for name in SERVICES
        for method in described
    }


async def _answer(method: Any, request: Any) -> Any:
    try:
        return await method(request, _Context())
    except OrlopError as error:
        if error.hint:  # a status has one text
            raise type(error)(f"{error.message} ({error.hint})", reason=error.reason) from error
        raise
