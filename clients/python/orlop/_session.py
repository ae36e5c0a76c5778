"""A process that a client is connected to: one bidirectional stream of Run, Start, Attach or Exec."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from orlop import _stream_messages, values
from orlop._connection import CHUNK_BYTES, Connection
from orlop.errors import SessionClosed
from orlop_protos.orlop.engine.v1 import stream_pb2


class Session:
    """A process that this client is connected to. Use it as a context manager; leaving it ends the
    connection.

    Iterating yields the process's output and ends when the process does, or when it was detached from.
    ``events`` tells everything else too. One task may read while others write; a task that is cancelled while
    it reads or writes takes the connection with it. What is known so far is in ``id`` and ``name`` (the
    container), ``pid``, ``exec_id``, ``terminal``, ``exit`` and ``detached``.

        async with client.containers.run(ContainerSpec(image="alpine", args=["cat"], stdin=True)) as session:
            await session.write(b"hello")
            await session.close_stdin()
            async for output in session:
                print(output.data)
            print(session.exit.code)
    """

    def __init__(
        self, connection: Connection, method: Any, request: Callable[..., Any], options: Any
    ) -> None:
        self._connection = connection
        self._method = method
        self._request = request
        self._options = options
        self._call: Any = None
        self._ahead: deque[values.SessionEvent] = deque()
        self._ended = False
        self._sending = asyncio.Lock()
        self.id = ""
        self.name = ""
        self.pid = 0
        self.exec_id = ""
        self.terminal: bool | None = None
        self.running = False
        self.exit: values.Exit | None = None
        self.detached = False

    async def __aenter__(self) -> Self:
        if self._call is not None:
            raise RuntimeError("a session can be entered only once")
        self._call = self._method(metadata=self._connection.metadata)
        try:
            await self._call.write(self._request(options=self._options))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # reading says why
        except BaseException:
            self._call.cancel()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """End the connection at once; what becomes of the process is up to how the session was opened."""
        self._ended = True
        if self._call is not None:
            self._call.cancel()

    # --- Out of the process ---------------------------------------------------------------------------------

    async def next_event(self) -> values.SessionEvent | None:
        """The next event, None when the stream has ended.

        :raises OrlopError: what was asked could not be done, or the connection was lost
        """
        if self._ahead:
            return self._ahead.popleft()
        return await self._receive()

    async def _receive(self) -> values.SessionEvent | None:
        if self._call is None:
            raise RuntimeError("enter the session first: async with ... as session")
        while not self._ended:
            try:
                # Not read(): a write that comes too late marks the call as failed, after which read() keeps
                # back what has arrived, the exit at its end.
                message = await anext(aiter(self._call))
            except StopAsyncIteration:
                self._ended = True
                await self._check()
                return None
            except grpc.aio.AioRpcError as error:
                self._ended = True
                if self.exit is not None or self.detached:
                    return None
                raise self._connection.error(error) from None
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self._ended and task is not None and not task.cancelling():
                    return None  # cancel() ended the call, nobody cancelled this task
                raise
            event = _stream_messages.session_event(message)
            if event is not None:
                self._note(event)
                return event
        return None

    async def _check(self) -> None:
        """Raise the error that the stream ended with, if it did."""
        code = await self._call.code()
        if code != grpc.StatusCode.OK:
            details = await self._call.details()
            error = grpc.aio.AioRpcError(
                code, await self._call.initial_metadata(), await self._call.trailing_metadata(), details
            )
            raise self._connection.error(error)

    def _note(self, event: values.SessionEvent) -> None:
        match event:
            case values.Created():
                self.id, self.name = event.id, event.name
            case values.Started():
                self.running = True
                self.pid, self.exec_id = event.pid, event.exec_id
                if event.terminal is not None:
                    self.terminal = event.terminal
            case values.Exit():
                self.exit = event
                self.running = False
            case values.Detached():
                self.detached = True
            case _:
                pass

    async def events(self) -> AsyncGenerator[values.SessionEvent, None]:
        """Everything that happens, in order, until the stream ends.

        :raises OrlopError: what was asked could not be done, or the connection was lost
        """
        while (event := await self.next_event()) is not None:
            yield event

    async def __aiter__(self) -> AsyncGenerator[values.Output, None]:
        async for event in self.events():
            if isinstance(event, values.Output):
                yield event

    async def ready(self) -> None:
        """Wait until the process runs (or has ended already). What is heard on the way is not lost to
        ``events``.

        :raises OrlopError: it could not be started
        """
        while not (self.running or self._ended or self.exit):
            event = await self._receive()
            if event is not None:
                self._ahead.append(event)

    async def wait(self) -> values.Exit:
        """Drop what output is left and return how the process ended.

        :raises OrlopError: the stream ended in another way: it was detached from, or the connection was lost
        """
        async for _ in self.events():
            pass
        if self.exit is None:
            raise SessionClosed(
                "the process was detached from, it runs on" if self.detached else "no exit came"
            )
        return self.exit

    # --- Into the process -----------------------------------------------------------------------------------

    async def write(self, data: bytes) -> None:
        """Send bytes to standard input; returns when there is room for more.

        :raises SessionClosed: the stream has ended; reading says how
        """
        for start in range(0, len(data), CHUNK_BYTES):
            await self._send(stream_pb2.StreamInput(stdin=data[start : start + CHUNK_BYTES]))

    async def close_stdin(self) -> None:
        """End standard input. A terminal gets its end-of-file character. Errors as ``write``."""
        await self._send(stream_pb2.StreamInput(stdin_end=stream_pb2.StdinEnd()))

    async def resize(self, width: int, height: int) -> None:
        """Tell the process's terminal its new size in characters. Errors as ``write``."""
        size = stream_pb2.WindowSize(width=width, height=height)
        await self._send(stream_pb2.StreamInput(resize=size))

    async def signal(self, name: str) -> None:
        """Send a signal ("TERM", "SIGTERM" or "15"), after what was written before. Errors as ``write``."""
        await self._send(stream_pb2.StreamInput(signal=stream_pb2.Signal(name=name)))

    async def detach(self) -> None:
        """Ask to leave the process running; the stream ends with ``Detached``. Errors as ``write``."""
        await self._send(stream_pb2.StreamInput(detach=stream_pb2.Detach()))

    async def _send(self, message: stream_pb2.StreamInput) -> None:
        if self._call is None:
            raise RuntimeError("enter the session first: async with ... as session")
        try:
            async with self._sending:
                await self._call.write(self._request(input=message))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise SessionClosed("the stream to the process has ended") from None
