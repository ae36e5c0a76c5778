"""Into a process's standard input: from a client's FIFO, from attached clients, from nobody."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import stat
import termios
from collections import deque

from orlopd.plugin.errors import FailedPrecondition, NotFound

log = logging.getLogger(__name__)

_CHUNK = 64 << 10
_HIGH = 256 << 10
_DEFAULT_EOF = b"\x04"
_EOF_FIRST = 0.2
_EOF_LAST = 5.0


class StdinWriter:
    """Writes to a pipe or to a terminal's master. The pipe is its own; the master is not."""

    def __init__(self, fd: int, *, terminal: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._terminal = terminal
        self._queue: deque[memoryview] = deque()
        self._size = 0
        self._room = asyncio.Event()
        self._room.set()
        self._ended = False
        self._writing = False
        self._again: asyncio.TimerHandle | None = None

    async def write(self, data: bytes) -> None:
        """Queue ``data``; returns when there is room for more. What a process does not want is dropped.

        :raises FailedPrecondition: standard input was ended
        """
        if self._ended:
            raise FailedPrecondition("standard input has ended", reason="STDIN_ENDED")
        if self._fd >= 0:
            self._put(data)
        await self._room.wait()

    def end(self) -> None:
        """The end of standard input, after what was written. May be called twice."""
        if self._ended:
            return
        self._ended = True
        if self._terminal:
            self._say_end(_EOF_FIRST)
        if not self._queue and not self._terminal:
            self.close()

    def close(self) -> None:
        """Drop what is queued. May be called twice."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._writing:
            self._loop.remove_writer(self._fd)
            self._writing = False
        self._queue.clear()
        self._size = 0
        self._room.set()
        if self._fd >= 0 and not self._terminal:
            os.close(self._fd)
        self._fd = -1

    def _say_end(self, pause: float) -> None:
        # A pipe's end lasts, a terminal's is one character: it is lost if the program changes the terminal's
        # mode just then, and it ends one program of several that read. So it is said again and again.
        if self._fd < 0:
            return
        if not self._queue or pause == _EOF_FIRST:
            self._put(self._eof_character())
        self._again = self._loop.call_later(pause, self._say_end, min(pause * 2, _EOF_LAST))

    def _eof_character(self) -> bytes:
        try:
            character = termios.tcgetattr(self._fd)[6][termios.VEOF]
        except (termios.error, OSError):
            return _DEFAULT_EOF
        return character if isinstance(character, bytes) else bytes([character])

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        if not self._queue:
            view = view[self._try(view) :]
        if len(view) and self._fd >= 0:
            self._queue.append(view)
            self._size += len(view)
            if self._size >= _HIGH:
                self._room.clear()
            if not self._writing:
                self._loop.add_writer(self._fd, self._flush)
                self._writing = True

    def _try(self, view: memoryview) -> int:
        if self._fd < 0:
            return len(view)
        try:
            return os.write(self._fd, view)
        except BlockingIOError:
            return 0
        except OSError:  # the process closed its standard input, or is gone
            self.close()
            return len(view)

    def _flush(self) -> None:
        while self._queue:
            view = self._queue[0]
            size = self._try(view)
            if not self._queue:
                return
            self._size -= size
            if size < len(view):
                self._queue[0] = view[size:]
                break
            self._queue.popleft()
        if self._size < _HIGH:
            self._room.set()
        if not self._queue:
            self._loop.remove_writer(self._fd)
            self._writing = False
            if self._ended and not self._terminal:
                self.close()


class FifoSource:
    """Relays a client's FIFO into a :class:`StdinWriter`.

    From :meth:`start` to :meth:`let_go` it holds a writing end of its own, so that clients may come and go;
    the end of standard input is the moment when nobody holds one. A client that closed its end before the
    start has said all it had to say: Debian's ctr, with a pipe on its own standard input, does not say so in
    any other way.
    """

    def __init__(self, path: str, writer: StdinWriter) -> None:
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._writer = writer
        self._task: asyncio.Task[None] | None = None
        self._held = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound(f"cannot open {path!r} as standard input: no such file") from error
        except OSError as error:
            raise FailedPrecondition(f"cannot open {path!r} as standard input: {error.strerror}") from error
        if not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise FailedPrecondition(f"cannot use {path!r} as standard input: it is not a FIFO")

    def start(self) -> None:
        """Begin to relay. May be called twice."""
        if self._task is not None or self._fd < 0:
            return
        poll = select.poll()
        poll.register(self._fd, 0)
        if not any(event & select.POLLHUP for _, event in poll.poll(0)):  # HUP: a writer came and went
            self._held = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._task = self._loop.create_task(self._relay())

    def let_go(self) -> None:
        """Stop holding the FIFO open: input ends when its clients end it."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def close(self) -> None:
        """Stop. May be called twice."""
        self.let_go()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    async def _relay(self) -> None:
        readable = asyncio.Event()
        fd = self._fd
        try:
            while True:
                try:
                    data = os.read(fd, _CHUNK)
                except BlockingIOError:
                    readable.clear()
                    self._loop.add_reader(fd, readable.set)
                    await readable.wait()
                    self._loop.remove_reader(fd)
                    continue
                if not data:
                    break
                with contextlib.suppress(FailedPrecondition):
                    await self._writer.write(data)
            self._writer.end()
        except OSError as error:
            log.warning("relaying standard input failed: %s", error)
