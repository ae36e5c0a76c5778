"""From one process's output to everyone who wants it.

Sources (pipes, or a terminal's master) are read only while every sink has room, so that whoever keeps reading
gets every byte and memory stays flat; a sink that is full stops the container, as a full pipe would. Attached
clients are sinks that may do so for a bounded time only.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
from collections import deque
from typing import Protocol

from .client import SCROLLBACK, Client
from .reaper import Ended

log = logging.getLogger(__name__)

CHUNK = 64 << 10
_DRAIN_LIMIT = 4 << 20
_PIPE_SIZE = 256 << 10


class Sink(Protocol):
    """Somewhere for output to go. Each sink is opened once for every stream it is given to."""

    @property
    def full(self) -> bool:
        """Whether it wants no more for now; it calls the hub's ``resume`` when that is over."""
        ...

    def write(self, stream: int, data: bytes) -> None:
        """Take everything, full or not."""
        ...

    def release(self) -> None:
        """One of its streams has ended; when all have, it ends by itself after what it holds is out."""
        ...

    def close(self) -> None:
        """End now and lose what it holds."""
        ...

    async def flushed(self) -> None:
        """Return when it has ended."""
        ...


class Hub:
    """The output of one process. Used from the event loop's thread only."""

    def __init__(self, stall: float) -> None:
        """:param stall: see :class:`.client.Client`"""
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        self._sources: dict[int, int] = {}
        self._sinks: dict[int, list[Sink]] = {1: [], 2: []}
        self._clients: set[Client] = set()
        self._scrollback: deque[tuple[int, bytes]] = deque()
        self._scrollback_size = 0
        self._paused = False
        self._end: tuple[Ended, str] | None = None
        self._sources_ended = asyncio.Event()
        self._sources_ended.set()

    def add_sink(self, sink: Sink, *streams: int) -> None:
        """Send these streams (1 or 2) to ``sink`` as well."""
        for stream in streams:
            self._sinks[stream].append(sink)

    def add_source(self, fd: int, stream: int) -> None:
        """Read a stream from a non-blocking descriptor, which is the hub's from now on."""
        with contextlib.suppress(OSError):  # a terminal, or over the user's limit: it works as it is
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._sources[fd] = stream
        self._sources_ended.clear()
        if not self._paused:
            self._loop.add_reader(fd, self._readable, fd)

    def attach(self, *, scrollback: bool) -> Client:
        """A new client, which sees everything from now on; what was written lately first, if wanted."""
        client = Client(self, self._stall)
        if scrollback:
            for stream, data in self._recent():
                client.write(stream, data)
        if self._end is not None:
            client.end(*self._end)
        else:
            self._clients.add(client)
        return client

    def detach(self, client: Client) -> None:
        """Forget a client."""
        self._clients.discard(client)
        self.resume()

    def resume(self) -> None:
        """Read on if every sink has room."""
        if self._paused and not self._any_full():
            self._paused = False
            for fd in self._sources:
                self._loop.add_reader(fd, self._readable, fd)

    def exited(self, ended: Ended, reason: str) -> None:
        """The process is gone: pass on all it wrote, then tell the clients how it ended.

        What others hold open (a grandchild that lives on) is read on afterwards, for the other sinks.
        """
        for fd in list(self._sources):
            left = _DRAIN_LIMIT
            while left > 0 and fd in self._sources:
                size = self._read(fd)
                if size is None:
                    break
                left -= size
        self._end = (ended, reason)
        for client in self._clients:
            client.end(ended, reason)
        self._clients.clear()
        self.resume()

    async def drained(self) -> None:
        """Return when all sources have ended and every sink has written what it had."""
        await self._sources_ended.wait()
        for sink in self._all_sinks():
            await sink.flushed()

    def close(self) -> None:
        """End everything now; what sinks still hold is lost. May be called twice."""
        for fd in list(self._sources):
            self._drop(fd)
        for sink in self._all_sinks():
            sink.close()
        for client in list(self._clients):
            client.gone()
        self._clients.clear()

    def _all_sinks(self) -> list[Sink]:
        return list({id(sink): sink for sinks in self._sinks.values() for sink in sinks}.values())

    def _any_full(self) -> bool:
        return any(client.full for client in self._clients) or any(
            sink.full for sinks in self._sinks.values() for sink in sinks
        )

    def _readable(self, fd: int) -> None:
        self._read(fd)
        if not self._paused and self._any_full():
            self._paused = True
            for source in self._sources:
                self._loop.remove_reader(source)

    def _read(self, fd: int) -> int | None:
        """Take one piece from a source; its size, or None when there is nothing (now or ever)."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: a terminal whose last user is gone
                log.warning("reading output failed: %s", error)
            data = b""
        stream = self._sources[fd]
        if not data:
            self._drop(fd)
            return None
        self._remember(stream, data)
        for sink in self._sinks[stream]:
            sink.write(stream, data)
        for client in self._clients:
            client.write(stream, data)
        return len(data)

    def _drop(self, fd: int) -> None:
        stream = self._sources.pop(fd)
        self._loop.remove_reader(fd)
        os.close(fd)
        for sink in self._sinks[stream]:
            sink.release()
        if not self._sources:
            self._sources_ended.set()

    def _remember(self, stream: int, data: bytes) -> None:
        self._scrollback.append((stream, data))
        self._scrollback_size += len(data)
        while self._scrollback_size - len(self._scrollback[0][1]) >= SCROLLBACK:
            self._scrollback_size -= len(self._scrollback.popleft()[1])

    def _recent(self) -> list[tuple[int, bytes]]:
        recent = list(self._scrollback)
        extra = self._scrollback_size - SCROLLBACK
        if extra > 0 and recent:
            stream, data = recent[0]
            recent[0] = (stream, data[extra:])
        return recent
