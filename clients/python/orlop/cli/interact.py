"""A person and a process: what is typed goes in, what it writes comes out, until it ends or is left alone.

Signals. A terminal in raw mode sends ctrl-C as a byte, so what is said here is about sessions without one,
and about signals from elsewhere. The first SIGINT or SIGTERM is passed on and means "stop": a container's
first process may well ignore it (the kernel drops signals that it has no handler for), so after GRACE seconds
it is killed. The second kills at once; the third leaves, whatever the daemon does. So the person always gets
the prompt back.

Signals and kills go to the daemon as calls of their own where there is one, not through the stream: they must
not wait behind input that nobody reads.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.abc

from orlop import values
from orlop.cli import terminal
from orlop.cli.base import BROKEN_PIPE, ENGINE_FAILED, Failure, say, usage
from orlop.errors import OrlopError, SessionClosed

if TYPE_CHECKING:
    from orlop._session import Session
    from orlop.client import Client

GRACE = 10.0
PATIENCE = 1.5
"""Seconds after which a person is told why nothing seems to happen."""
DETACH_SECONDS = 3.0
STDIN, STDOUT, STDERR = 0, 1, 2


class Target(Protocol):
    """What signals go to.

    ``kill`` says whether the session will tell the end; if not, leaving the session is what kills.
    """

    async def signal(self, name: str) -> None: ...
    async def kill(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class MainProcess:
    """A container's main process."""

    client: Client
    container: str

    async def signal(self, name: str) -> None:
        await self.client.containers.kill(self.container, name)

    async def kill(self) -> bool:
        await self.client.containers.kill(self.container, "KILL")
        return True


@dataclass(frozen=True, slots=True)
class ExecProcess:
    """A further process: only its stream reaches it, and giving the stream up kills it."""

    session: Session

    async def signal(self, name: str) -> None:
        await self.session.signal(name)

    async def kill(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Streams:
    """What of the person's is connected: standard input, and whether the process has a terminal."""

    stdin: bool
    tty: bool
    detach_keys: bytes

    @property
    def raw(self) -> bool:
        """Whether the person's terminal becomes the process's."""
        return self.tty and self.stdin and os.isatty(STDIN)

    def window(self) -> values.WindowSize | None:
        """The size of the window that a terminal is shown in."""
        return terminal.window_size(STDOUT, STDIN) if self.tty else None


def streams(*, stdin: bool, tty: bool, detach_keys: str) -> Streams:
    """What to connect.

    :raises Failure: a terminal is wanted for an input that is none
    """
    if stdin and tty and not os.isatty(STDIN):
        raise Failure(
            "the input device is not a TTY", hint="leave -t out when input is piped in", code=ENGINE_FAILED
        )
    try:
        sequence = terminal.detach_sequence(detach_keys)
    except ValueError as error:
        raise usage(str(error)) from None
    return Streams(stdin, tty, sequence)


class Interaction:
    """One session with a process that runs, held to its end."""

    def __init__(
        self,
        session: Session,
        target: Target | None,
        streams: Streams,
        *,
        name: str,
        redraw: bool = False,
        ends_with_reader: bool = False,
    ) -> None:
        """Without a ``target`` signals end the session and reach nobody.

        :param ends_with_reader: the process ends when nobody reads its output any more, as in a pipeline
        """
        self._session = session
        self._target = target
        self._streams = streams
        self._name = name
        self._redraw = redraw
        self._ends_with_reader = ends_with_reader
        self._terminal = terminal.Terminal(STDIN)
        self._asked_to_stop = 0
        self._left: int | None = None
        self._tasks: anyio.abc.TaskGroup

    async def run(self) -> int:
        """Hold the session and return the exit code for the shell.

        :raises OrlopError: the session broke
        """
        failure: Exception | None = None
        with ExitStack() as stack:
            sys.stdout.flush()
            if self._streams.raw:
                stack.enter_context(self._terminal.raw())
            async with anyio.create_task_group() as self._tasks:
                await self._tasks.start(self._watch_signals)
                if self._streams.stdin:
                    self._tasks.start_soon(self._quietly, self._pump_input)
                if self._streams.tty:
                    self._tasks.start_soon(self._quietly, self._first_size)
                try:
                    await self._show_output()
                except (OrlopError, OSError) as error:
                    failure = error
                    if isinstance(error, BrokenPipeError) and self._ends_with_reader and self._target:
                        await self._kill(self._target)
                self._tasks.cancel_scope.cancel()
        return self._code(failure)

    def _code(self, failure: Exception | None) -> int:
        if self._session.exit is not None:
            if self._session.exit.reason:
                say(f"{self._name}: {self._session.exit.reason}")
            return self._session.exit.code
        if self._left is not None:
            return self._left
        if self._session.detached:
            say(f"detached from {self._name}, which runs on")
            return 0
        if isinstance(failure, BrokenPipeError):
            return BROKEN_PIPE
        if failure is not None:
            raise failure
        raise Failure("the daemon ended the session without saying how the process ended", code=ENGINE_FAILED)

    def _leave(self, code: int) -> None:
        """End the session from here."""
        self._left = code
        self._session.cancel()
        self._tasks.cancel_scope.cancel()

    async def _quietly(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something to the session, which may have ended meanwhile."""
        with suppress(SessionClosed):
            await work()

    # --- Out ------------------------------------------------------------------------------------------------

    async def _show_output(self) -> None:
        async for event in self._session.events():
            if isinstance(event, values.Output):
                descriptor = STDERR if event.stream == values.LogStream.STDERR else STDOUT
                await terminal.write(descriptor, event.data)

    # --- In -------------------------------------------------------------------------------------------------

    async def _pump_input(self) -> None:
        scanner = terminal.DetachScanner(self._streams.detach_keys if self._streams.raw else b"")
        try:
            async for data in terminal.chunks(STDIN):
                data, detach = scanner.feed(data)
                if data:
                    await self._session.write(data)
                if detach:
                    await self._detach()
                    return
        except OSError as error:
            say(f"standard input cannot be read: {error.strerror}")
        if self._streams.raw:
            await self._detach()  # the window was closed
        else:
            await self._session.close_stdin()

    async def _detach(self) -> None:
        await self._session.detach()
        await anyio.sleep(DETACH_SECONDS)
        # No answer: whoever should read what was typed does not. Leaving does the same.
        self._leave(0)

    async def _first_size(self) -> None:
        size = self._streams.window()
        if size and self._redraw:
            # A change of size makes a program that was drawn for another window draw itself again.
            await self._session.resize(size.width + 1, size.height + 1)
        if size:
            await self._session.resize(size.width, size.height)

    # --- Signals --------------------------------------------------------------------------------------------

    async def _watch_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        numbers = [*terminal.STOPPING, *terminal.FORWARDED, signal.SIGWINCH, signal.SIGCONT]
        with anyio.open_signal_receiver(*numbers) as received:
            task_status.started()
            async for number in received:
                self._tasks.start_soon(self._quietly, lambda number=number: self._on_signal(number))

    async def _on_signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            if size := self._streams.window():
                await self._session.resize(size.width, size.height)
        elif number == signal.SIGCONT:
            if self._streams.raw:
                self._terminal.set_raw()
        elif number in terminal.STOPPING:
            await self._stop(number)
        elif number == signal.SIGHUP and self._streams.raw:
            await self._detach()
        elif self._target is not None:
            await self._signal(self._target, number)

    async def _stop(self, number: int) -> None:
        self._asked_to_stop += 1
        if self._target is None or self._asked_to_stop >= 3:
            self._leave(128 + number)
        elif self._asked_to_stop == 2:
            await self._kill(self._target)
        else:
            await self._signal(self._target, number)
            await anyio.sleep(PATIENCE)
            if self._asked_to_stop == 1:
                left = GRACE - PATIENCE
                say(f"{self._name} was asked to end; it is killed in {left:.0f} s, or now with ctrl-C")
            await anyio.sleep(GRACE - PATIENCE)
            await self._kill(self._target)

    # The process may have ended meanwhile: then these calls fail, and the stream says so.

    async def _signal(self, target: Target, number: int) -> None:
        try:
            await target.signal(terminal.signal_name(number))
        except SessionClosed:
            pass
        except OrlopError as error:
            self._complain(error)

    async def _kill(self, target: Target) -> None:
        try:
            if not await target.kill():
                self._leave(128 + signal.SIGKILL)
        except OrlopError as error:
            self._complain(error)

    def _complain(self, error: OrlopError) -> None:
        if error.code not in ("NOT_FOUND", "FAILED_PRECONDITION"):
            say(error.message)
