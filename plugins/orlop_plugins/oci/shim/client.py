"""An attached client as the hub sees it: a bounded queue with a limit on how long it may be full."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from orlopd.plugin.errors import OrlopError, ResourceExhausted, Unavailable

from .reaper import Ended

SCROLLBACK = 64 << 10
QUEUE = 1 << 20


class Owner(Protocol):
    """What a client tells about itself."""

    def resume(self) -> None: ...

    def detach(self, client: Client) -> None: ...


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of stream 1 or 2."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The process ended; all output was before this."""

    ended: Ended
    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """The client wanted to leave; the process goes on."""


Item = Data | End | Left


class Client:
    """What one attached client is still to be told."""

    def __init__(self, owner: Owner, stall: float) -> None:
        """:param stall: seconds that it may keep the container waiting without reading anything"""
        self._owner = owner
        self._patience = stall
        self._items: deque[Item | OrlopError] = deque()
        self._size = 0
        self._moved = 0.0
        self._news = asyncio.Event()
        self._closed = False
        self._stall: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        return self._size >= QUEUE

    def write(self, stream: int, data: bytes) -> None:
        """Queue output. When that fills the queue, the clock runs until the client has taken something."""
        self._put(Data(stream, data))
        self._size += len(data)
        if self.full and self._stall is None:
            self._watch()

    def end(self, ended: Ended, reason: str) -> None:
        """Queue the process's end, the last item."""
        self._finish(End(ended, reason))

    def leave(self) -> None:
        """Queue the answer to a detach, the last item."""
        self._finish(Left())
        self._owner.detach(self)

    def fail(self, error: OrlopError) -> None:
        """Let the next take() raise ``error``."""
        self._finish(error)
        self._owner.detach(self)

    def gone(self) -> None:
        """The process was deleted under the client."""
        self._finish(Unavailable("the process was deleted while a client was attached"))

    async def take(self) -> Item:
        """The next item. :raises ResourceExhausted: the client was cut off"""
        while not self._items:
            self._news.clear()
            await self._news.wait()
        item = self._items.popleft()
        if isinstance(item, OrlopError):
            raise item
        self._moved = asyncio.get_running_loop().time()
        if isinstance(item, Data):
            was_full = self.full
            self._size -= len(item.data)
            if was_full and not self.full:
                self._owner.resume()
        return item

    def close(self) -> None:
        """The client is gone; nothing is kept for it."""
        self._closed = True
        self._items.clear()
        self._size = 0
        self._cancel_watch()
        self._owner.detach(self)

    def _put(self, item: Item | OrlopError) -> None:
        if not self._closed:
            self._items.append(item)
            self._news.set()

    def _finish(self, item: Item | OrlopError) -> None:
        self._put(item)
        self._closed = True
        self._cancel_watch()

    def _watch(self, since: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        self._stall = loop.call_at((since or loop.time()) + self._patience, self._check)

    def _check(self) -> None:
        self._stall = None
        if not self.full or self._closed:
            return
        if self._moved + self._patience > asyncio.get_running_loop().time():
            self._watch(self._moved)
            return
        self._items.clear()
        self._size = 0
        self.fail(
            ResourceExhausted(
                f"cut off: the client did not read output for {self._patience:g} s",
                reason="CLIENT_TOO_SLOW",
                hint="attach again; the container and its log go on",
            )
        )

    def _cancel_watch(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
