"""Messages to a client that are sent whole, whoever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio


class Writing:
    """The context of a call that answers with a stream.

    gRPC takes no message back once its sending has begun, and refuses whatever else the call sends beside
    it, even its end: the client would then wait for ever. So a message goes on being sent though its writer
    is cancelled, and what comes next waits for it.

    :param context: gRPC's own; all but writing is as it does it
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._sending: asyncio.Future[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """Send a message. Raises what gRPC does if the client has gone."""
        await self.settled()
        self._sending = sending = asyncio.ensure_future(self._context.write(message))
        await asyncio.shield(sending)
        self._sending = None

    async def settled(self) -> None:
        """Wait for the message that is being sent, if one is, though the call is cancelled: its end comes
        after it. Where the client has gone there is nothing to wait for."""
        if self._sending is not None:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._sending])
            # Its writer was told, or is gone; asked for, so that nobody calls it forgotten.
            _ = self._sending.cancelled() or self._sending.exception()
            self._sending = None
