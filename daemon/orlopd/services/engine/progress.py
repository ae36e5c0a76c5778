"""A pull's reports on their way to a client that may read slower than they come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from orlopd.core.progress import BlobProgress, PullEvent, Resolved


class Relay:
    """Sends what a pull reports while it goes on: the resolved name first, then of each blob the latest."""

    def __init__(self, send: Callable[[PullEvent], Awaitable[None]]) -> None:
        self._send = send
        self._resolved: list[Resolved] = []
        self._latest: dict[str, BlobProgress] = {}
        self._news = anyio.Event()
        self._finished = False
        self._done = anyio.Event()

    def report(self, event: PullEvent) -> None:
        """Take a report; never waits."""
        if isinstance(event, Resolved):
            self._resolved.append(event)
        else:
            self._latest[event.digest] = event
        self._news.set()

    async def finish(self) -> None:
        """Return when everything was sent; nothing is sent afterwards."""
        self._finished = True
        self._news.set()
        await self._done.wait()

    async def run(self) -> None:
        """Send until told to finish."""
        try:
            while True:
                await self._news.wait()
                self._news = anyio.Event()
                resolved, self._resolved = self._resolved, []
                latest, self._latest = self._latest, {}
                for event in (*resolved, *latest.values()):
                    await self._send(event)
                if self._finished and not self._news.is_set():
                    return
        finally:
            self._done.set()
