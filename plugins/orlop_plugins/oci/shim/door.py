"""A shim's socket: ttrpc at once, and gRPC from when somebody first speaks it.

A gRPC server is a quarter of a shim's memory and of the time to start one. Our daemon has no need of it;
it is for whoever talks to a shim directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

import grpc.aio

from ...ttrpc import TtrpcServer

log = logging.getLogger(__name__)

_PREFACE = b"PRI "
"""How HTTP/2 begins. No frame of ttrpc does: it would announce more than a gigabyte."""
_GRACE = 0.5
_PIECE = 256 << 10
_RETRY = 0.05


class Door:
    """Takes the connections to a listening socket and lets each in where its first bytes belong.

    :param listener: bound and listening
    :param ttrpc: where ttrpc goes; entered already
    :param grpc_server: makes a gRPC server that has its services and no socket yet
    :param inner: the path for the socket of that one
    """

    def __init__(
        self,
        listener: socket.socket,
        ttrpc: TtrpcServer,
        grpc_server: Callable[[], grpc.aio.Server],
        inner: str,
    ) -> None:
        self._listener = listener
        self._ttrpc = ttrpc
        self._make = grpc_server
        self._inner = inner
        self._server: grpc.aio.Server | None = None
        self._starting = asyncio.Lock()
        self._guests: set[asyncio.Task[None]] = set()
        self._taking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._listener.setblocking(False)
        self._taking = asyncio.create_task(self._take())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._taking is not None
        self._taking.cancel()
        self._listener.close()
        if self._server is not None:
            await self._server.stop(_GRACE)
            remove(self._inner)
        for guest in list(self._guests):
            guest.cancel()
        await asyncio.gather(self._taking, *self._guests, return_exceptions=True)

    async def grpc_address(self) -> str:
        """Have gRPC served; the path of the socket that speaks nothing else."""
        async with self._starting:
            if self._server is None:
                server = self._make()
                bind(server, self._inner)
                await server.start()
                self._server = server
        return self._inner

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                guest, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("cannot take a connection: %s", error)
                await asyncio.sleep(_RETRY)
                continue
            task = asyncio.create_task(self._let_in(guest))
            self._guests.add(task)
            task.add_done_callback(self._guests.discard)

    async def _let_in(self, guest: socket.socket) -> None:
        taken = False
        try:
            guest.setblocking(False)
            first = await _first_bytes(guest)
            if first == _PREFACE:
                await self._lead_to_grpc(guest)
            elif first:
                await self._ttrpc.take(guest)
                taken = True
        except OSError as error:
            log.debug("a connection is over: %s", error)
        except Exception:
            log.exception("a connection is cut off")
        finally:
            if not taken:
                guest.close()

    async def _lead_to_grpc(self, guest: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as inner:
            inner.setblocking(False)
            await loop.sock_connect(inner, await self.grpc_address())
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(guest, inner))
                group.create_task(_pass_on(inner, guest))


def bind(server: grpc.aio.Server, path: str) -> None:
    """Have a gRPC server listen at a path, for nobody but its user from the first moment."""
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    finally:
        os.umask(before)


def remove(path: str) -> None:
    """Remove a socket, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


async def _first_bytes(guest: socket.socket) -> bytes:
    """As many as tell what is spoken, left where they are; none if the connection ends before."""
    loop = asyncio.get_running_loop()
    while True:
        found = b""
        try:
            found = guest.recv(len(_PREFACE), socket.MSG_PEEK)
        except BlockingIOError:
            ready = loop.create_future()
            loop.add_reader(guest, lambda ready=ready: ready.done() or ready.set_result(None))
            try:
                await ready
            finally:
                loop.remove_reader(guest)
            continue
        if not found or found == _PREFACE or not _PREFACE.startswith(found):
            return found
        await asyncio.sleep(_RETRY)  # a beginning that may become either, and more of it may never come


async def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(source, _PIECE):
            await loop.sock_sendall(sink, data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
