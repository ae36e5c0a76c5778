"""The streams of one process: made before the runtime is called, live when it has answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import termios
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.runtime import Stdio

from . import sinks
from .console import ConsoleSocket
from .hub import Hub, Sink
from .logdriver import LogDriver
from .logfile import PLAIN, LogFile, LogKeeping
from .reaper import Reaper
from .stdin import FifoSource, StdinWriter

log = logging.getLogger(__name__)

_CONSOLE_DEADLINE = 30.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose streams they are: what a log driver is told, who is to own the pipes, how a log is kept."""

    namespace: str
    id: str
    uid: int = 0
    gid: int = 0
    keeping: LogKeeping = PLAIN


class Streams:
    """From the request's :class:`Stdio` to descriptors for the runtime and back."""

    def __init__(self, stdio: Stdio, owner: Owner, folder: Path, reaper: Reaper, hub: Hub) -> None:
        self.stdio = stdio
        self.hub = hub
        self.stdin: StdinWriter | None = None
        self.master = -1
        self.console: ConsoleSocket | None = None
        self.child_fds: list[int] = [-1, -1, -1]
        """What the runtime gets as 0, 1 and 2; -1 is /dev/null. Closed by live() and close()."""
        self._owner = owner
        self._reaper = reaper
        self._sources: dict[int, int] = {}
        self._fifo: FifoSource | None = None
        self._driver: LogDriver | None = None
        self._stdin_end = -1
        self._has_stdin = bool(stdio.stdin or stdio.hold_stdin)
        try:
            self._open(folder)
        except BaseException:
            self.close()
            raise

    async def live(self) -> None:
        """The runtime has answered: take the terminal, let go of the child's ends, begin to relay.

        :raises DeadlineExceeded: no terminal came
        """
        self._close_child_fds()
        if self.console is not None:
            self.master = await self.console.receive(_CONSOLE_DEADLINE)
            self.console.close()
            self.stdin = StdinWriter(self.master, terminal=True)
            self.hub.add_source(os.dup(self.master), 1)
        else:
            if self._stdin_end >= 0:
                self.stdin = StdinWriter(self._stdin_end, terminal=False)
                self._stdin_end = -1
            for fd, stream in self._sources.items():
                self.hub.add_source(fd, stream)
            self._sources.clear()
        if self.stdio.stdin and self.stdin is not None:
            self._fifo = FifoSource(self.stdio.stdin, self.stdin)

    def begin_input(self) -> None:
        """The process is being started: pass on what its clients say."""
        if self._fifo is not None:
            self._fifo.start()

    def resize(self, width: int, height: int) -> None:
        """Tell the terminal its size; without a terminal nothing happens."""
        if self.master >= 0:
            with contextlib.suppress(OSError):
                _set_size(self.master, width, height)

    def close_stdin(self) -> None:
        """No more input: a FIFO's clients may still end what they have begun."""
        if self._fifo is not None:
            self._fifo.let_go()
        elif self.stdin is not None:
            self.stdin.end()

    def process_ended(self) -> None:
        """Input has no taker any more."""
        if self._fifo is not None:
            self._fifo.close()
        if self.stdin is not None:
            self.stdin.close()

    async def drain(self, deadline: float) -> bool:
        """Wait until all output has arrived everywhere; False when that takes longer (seconds)."""
        try:
            async with asyncio.timeout(deadline):
                await self.hub.drained()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Let go of everything. May be called twice."""
        self._close_child_fds()
        self.process_ended()
        self.hub.close()
        for fd in self._sources:
            os.close(fd)
        self._sources.clear()
        if self._stdin_end >= 0:
            os.close(self._stdin_end)
            self._stdin_end = -1
        if self.console is not None:
            self.console.close()
        if self.master >= 0:
            os.close(self.master)
            self.master = -1
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def _close_child_fds(self) -> None:
        for index, fd in enumerate(self.child_fds):
            if fd >= 0:
                os.close(fd)
                self.child_fds[index] = -1

    def _open(self, folder: Path) -> None:
        stdio = self.stdio
        if stdio.stdin and not os.path.exists(stdio.stdin):  # noqa: PTH110
            raise InvalidArgument(f"cannot open {stdio.stdin!r} as standard input: no such file")
        self._open_sinks()
        if stdio.terminal:
            self.console = ConsoleSocket(folder)
            return
        if self._has_stdin:
            reading, writing = self._pipe()
            os.set_blocking(writing, False)
            self.child_fds[0], self._stdin_end = reading, writing
        both = stdio.attach or bool(stdio.log) or stdio.stdout.startswith(("file:", "binary"))
        for stream, path in ((1, stdio.stdout), (2, stdio.stderr)):
            if path or both:
                reading, writing = self._pipe()
                os.set_blocking(reading, False)
                self.child_fds[stream] = writing
                self._sources[reading] = stream

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        if self._owner.uid or self._owner.gid:
            for fd in ends:
                os.fchown(fd, self._owner.uid, self._owner.gid)
        return ends

    def _open_sinks(self) -> None:
        stdio, resume = self.stdio, self.hub.resume
        streams = (1,) if stdio.terminal else (1, 2)
        if stdio.log:
            self.hub.add_sink(LogFile(stdio.log, len(streams), self._owner.keeping), *streams)
        scheme = urlsplit(stdio.stdout).scheme
        if scheme == "file":
            path = unquote(urlsplit(stdio.stdout).path)
            self.hub.add_sink(sinks.open_file(path, len(streams)), *streams)
        elif scheme in ("binary", "binary-v2"):
            self._driver = LogDriver(
                stdio.stdout, self._owner.namespace, self._owner.id, self._reaper, resume
            )
            for stream in streams:
                self.hub.add_sink(self._driver.sinks[stream], stream)
        elif scheme and not stdio.stdout.startswith("/"):
            raise InvalidArgument(
                f"unknown kind of stream {stdio.stdout!r}: want a path, file:// or binary://"
            )
        else:
            self._open_paths(stdio.stdout, "" if stdio.terminal else stdio.stderr)

    def _open_paths(self, stdout: str, stderr: str) -> None:
        resume = self.hub.resume
        if stdout and stdout == stderr:
            self.hub.add_sink(sinks.open_path(stdout, resume, 2), 1, 2)
            return
        for path, stream in ((stdout, 1), (stderr, 2)):
            if path:
                sink: Sink = sinks.open_path(path, resume, 1)
                self.hub.add_sink(sink, stream)

    async def ready(self) -> None:
        """Wait for what must be ready before the process may run (a log driver)."""
        if self._driver is not None:
            await self._driver.ready()


def _set_size(master: int, width: int, height: int) -> None:
    termios.tcsetwinsize(master, (min(height, 0xFFFF), min(width, 0xFFFF)))
