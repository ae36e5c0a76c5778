"""Receiving a terminal from the runtime: the console socket of the OCI runtimes' command line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from pathlib import Path

from orlopd.plugin.errors import DeadlineExceeded, FailedPrecondition


class ConsoleSocket:
    """A unix socket to which the runtime sends a pseudoterminal's master, once.

    The path leads through /proc, because a bundle's own path may be too long for a socket's address.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = f"console-{secrets.token_hex(4)}.sock"
        self.path = f"/proc/{os.getpid()}/fd/{self._folder}/{self._name}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.setblocking(False)
        try:
            self._listener.bind(self.path)
            self._listener.listen(1)
        except BaseException:
            self.close()
            raise

    async def receive(self, deadline: float) -> int:
        """The master's descriptor, non-blocking.

        :param deadline: seconds
        :raises DeadlineExceeded: the runtime did not send it
        :raises FailedPrecondition: what it sent is no terminal
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline):
                connection, _ = await loop.sock_accept(self._listener)
                with connection:
                    master = await self._take(connection)
        except TimeoutError as error:
            raise DeadlineExceeded(f"the runtime sent no terminal within {deadline:g} s") from error
        os.set_blocking(master, False)
        if not os.isatty(master):
            os.close(master)
            raise FailedPrecondition("the runtime sent something that is not a terminal")
        return master

    async def _take(self, connection: socket.socket) -> int:
        loop = asyncio.get_running_loop()
        while True:
            try:
                _, fds, _, _ = socket.recv_fds(connection, 4096, 4, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                ready = asyncio.Event()
                loop.add_reader(connection, ready.set)
                try:
                    await ready.wait()
                finally:
                    loop.remove_reader(connection)
                continue
            for extra in fds[1:]:
                os.close(extra)
            if not fds:
                raise FailedPrecondition("the runtime closed the console socket without sending a terminal")
            return fds[0]

    def close(self) -> None:
        """Forget the socket. May be called twice."""
        self._listener.close()
        if self._folder >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder)
            os.close(self._folder)
            self._folder = -1
