"""One connection: the channel, what every call carries, and how its errors come out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import Any

import grpc
import grpc.aio

from orlop._address import diagnose, grpc_target
from orlop.errors import DETAILS, Aborted, CannotConnect, OrlopError, from_rpc

MESSAGE_BYTES = 16 << 20
CHUNK_BYTES = 1 << 20
CALL_SECONDS = 30.0
"""The deadline of a call that only asks or changes something small."""
WORK_SECONDS = 600.0
"""The deadline of a call that moves or removes much."""
WRITE_FAILED = "Internal error from Core"
"""What gRPC says when a call ends while something is being sent; the daemon's own status is lost then."""

OPTIONS = [
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    # A daemon that is restarted is found again at once, and clients do not share each other's failures.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # this is how long one attempt may take
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
]


class Connection:
    """A channel to a daemon, for one namespace. Not for use outside of this package."""

    def __init__(self, address: str, namespace: str, timeout: float) -> None:
        self.address = address
        self.namespace = namespace
        self.timeout = timeout
        self.channel = grpc.aio.insecure_channel(grpc_target(address), options=OPTIONS)
        self.metadata = (("containerd-namespace", namespace),)

    async def close(self) -> None:
        await self.channel.close()

    def error(self, error: grpc.aio.AioRpcError) -> OrlopError:
        """The error of a call; when the daemon itself cannot be reached it says so, and why."""
        # What the daemon says carries details; what gRPC says of the connection does not.
        said = any(key == DETAILS for key, _ in error.trailing_metadata() or ())
        if error.code() == grpc.StatusCode.UNAVAILABLE and not said:
            why = error.details() or "no reason given"
            lost = f"there is no connection to orlopd at {self.address}: {why}"
            return diagnose(self.address) or CannotConnect(lost, reason="CONNECTION_LOST")
        return from_rpc(error)

    async def unary(self, method: Any, request: Any, *, timeout: float | None = 0) -> Any:
        """Make a unary call. ``timeout`` in seconds; 0 is the connection's, None is none.

        :raises OrlopError: the call's error
        """
        limit = self.timeout if timeout == 0 else timeout
        try:
            return await method(request, timeout=limit, metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from None

    async def stream(self, method: Any, request: Any) -> AsyncGenerator[Any, None]:
        """Make a call and yield its responses; leaving early cancels it.

        :raises OrlopError: the call's error
        """
        call = method(request, metadata=self.metadata)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from None
        finally:
            call.cancel()

    async def upload(
        self, method: Any, options: Any, chunks: AsyncIterable[bytes], wrap: Callable[[bytes], Any]
    ) -> Any:
        """Send options, then chunks (cut to what the contract allows), and return the answer.

        What the source of the chunks raises comes out as it is, and the call is cancelled.
        :raises OrlopError: the call's error
        """
        call = method(metadata=self.metadata)
        try:
            await _send(call, options, chunks, wrap)
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._upload_error(error) from None
        finally:
            call.cancel()

    async def upload_and_listen(
        self, method: Any, options: Any, chunks: AsyncIterable[bytes], wrap: Callable[[bytes], Any]
    ) -> AsyncGenerator[Any, None]:
        """As :meth:`upload`, for a call that answers with a stream: yields what comes meanwhile and after."""
        call = method(metadata=self.metadata)
        sending = asyncio.ensure_future(_send(call, options, chunks, wrap))
        # The source has failed: no answer to half of what was to be sent.
        sending.add_done_callback(lambda sent: sent.cancelled() or (sent.exception() and call.cancel()))
        try:
            async for response in call:
                yield response
            await sending
        except grpc.aio.AioRpcError as error:
            raise self._upload_error(error) from None
        except asyncio.CancelledError:
            if sending.done() and not sending.cancelled():
                sending.result()
            raise
        finally:
            call.cancel()
            sending.cancel()

    def _upload_error(self, error: grpc.aio.AioRpcError) -> OrlopError:
        # The daemon reads on for a while before it refuses, so very much was sent.
        if error.details() == WRITE_FAILED:
            return Aborted(
                "the daemon ended the upload before all was sent, and why got lost",
                reason="UPLOAD_ENDED",
                hint="the daemon's log may tell",
            )
        return self.error(error)


async def _send(call: Any, options: Any, chunks: AsyncIterable[bytes], wrap: Callable[[bytes], Any]) -> None:
    try:
        await call.write(options)
        async for chunk in chunks:
            view = memoryview(chunk)
            for start in range(0, len(view), CHUNK_BYTES):
                await call.write(wrap(bytes(view[start : start + CHUNK_BYTES])))
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # the daemon ended the call early; its answer says why
