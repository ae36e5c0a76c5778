"""The server on its sockets."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from orlopd.config import Config

from .handlers import Handlers
from .interceptor import Interceptor
from .sockets import SocketError, SocketPath, find_group
from .tracing import Tracer

Register = Callable[[grpc.aio.Server], Sequence[str]]

_log = logging.getLogger("orlopd.server")


class Server:
    """Claims its sockets when made, serves between :meth:`start` and :meth:`stop`."""

    def __init__(self, config: Config, version: str, *, namespaced: bool = True) -> None:
        """
        :param namespaced: whether containerd's services want to know the namespace of a call
        :raises SocketError: a socket is in use or cannot be made
        """
        self._config = config
        self._interceptor = Interceptor(Tracer(version), namespaced=namespaced)
        self._health: Any = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
        self._paths: list[SocketPath] = []
        self._server: Any = None
        group, mode = find_group(config.socket_group), int(config.socket_mode, 8)
        try:
            for path in config.sockets:
                self._paths.append(SocketPath.claim(path, mode, group))
        except BaseException:
            self.release()
            raise

    async def start(self, register: Sequence[Register]) -> list[str]:
        """Bind the sockets and serve.

        :param register: each adds services and says their names
        :returns: the names of the services
        :raises SocketError: a socket cannot be bound
        """
        limits = self._config.grpc
        self._server = server = grpc.aio.server(
            interceptors=[self._interceptor],
            options=[
                ("grpc.max_receive_message_length", limits.max_receive_message_size),
                ("grpc.max_send_message_length", limits.max_send_message_size),
                # A client that asks whether the daemon is alive, as long streams do, is not to be cut off.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.so_reuseport", 0),
            ],
        )
        handlers: Any = Handlers()
        names = [name for add in register for name in add(handlers)]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, handlers)
        names.append(health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        for name in names:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if limits.reflection:
            names.append(_add_reflection(handlers, names))
        server.add_generic_rpc_handlers((handlers,))
        for socket in self._paths:
            try:
                server.add_insecure_port(f"unix:{os.fspath(socket.path)}")
            except RuntimeError as error:
                raise SocketError(f"cannot serve on {socket.path}: {' '.join(str(error).split())}") from None
            socket.open_up()
        await server.start()
        return names

    async def stop(self, grace: float) -> None:
        """Take no more calls, end streams, give other calls ``grace`` seconds, remove the sockets."""
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            self._interceptor.stop()
            with anyio.CancelScope(shield=True):
                await self._server.stop(grace)
        self.release()

    def release(self) -> None:
        """Remove the sockets and let go of their paths."""
        while self._paths:
            self._paths.pop().release()


def _add_reflection(server: Any, names: Sequence[str]) -> str:
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    return reflection.SERVICE_NAME
