"""That the other side of a connection goes, noticed while nobody reads the connection."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Any


class Departure:
    """Waits for the other side to go. To be closed when the connection is read again.

    :param transport: of a socket; it is not being read
    :param gone: called once the other side has gone; no more is to come then than what is on its way
    """

    def __init__(self, transport: asyncio.Transport, gone: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        # The loop knows the socket already, and would tell of every byte: this asks for the end alone.
        self._poll = select.epoll()
        connection: Any = transport.get_extra_info("socket")
        self._poll.register(connection.fileno(), select.EPOLLRDHUP)
        self._loop.add_reader(self._poll.fileno(), gone)

    def close(self) -> None:
        """Wait no more. May be called twice."""
        if not self._poll.closed:
            self._loop.remove_reader(self._poll.fileno())
            self._poll.close()
