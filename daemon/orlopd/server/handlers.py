"""What a gRPC server of asyncio serves, looked up faster than by the server itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc


class Handlers(grpc.GenericRpcHandler):
    """Takes the place of a server for the functions ``add_…Servicer_to_server``; it is then added to one::

        handlers = Handlers()
        tasks_pb2_grpc.add_TasksServicer_to_server(service, handlers)
        server.add_generic_rpc_handlers((handlers,))

    A server keeps a task waiting for each method that is registered with it, and waits anew for all of
    them with each call: with a hundred methods that takes nearly as long as the rest of a call. So none is.
    """

    def __init__(self) -> None:
        self._services: dict[str, grpc.ServiceRpcHandler] = {}
        self._others: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """As a server's."""
        for handler in handlers:
            if isinstance(handler, grpc.ServiceRpcHandler) and handler.service_name() not in self._services:
                self._services[handler.service_name()] = handler
            else:
                self._others.append(handler)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Nothing: they have come by :meth:`add_generic_rpc_handlers` as well."""

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """What serves a call; None if nothing does."""
        name = handler_call_details.method.removeprefix("/").rpartition("/")[0]
        known = self._services.get(name)
        found = known.service(handler_call_details) if known is not None else None
        if found is None:
            offers = (each.service(handler_call_details) for each in self._others)
            found = next((each for each in offers if each is not None), None)
        return found
