"""Where output goes besides attached clients: FIFOs, files and log drivers."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
from collections import deque
from collections.abc import Callable
from pathlib import Path

from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound

log = logging.getLogger(__name__)

_HIGH = 256 << 10
_LOW = 64 << 10
_RETRY_FIRST = 0.002
_RETRY_LAST = 0.1


class DescriptorSink:
    """Writes to a non-blocking descriptor, which it owns."""

    def __init__(self, fd: int, resume: Callable[[], None], streams: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._resume = resume
        self._streams = streams
        self._queue: deque[memoryview] = deque()
        self._size = 0
        self._was_full = False
        self._writing = False
        self._ended = asyncio.Event()

    @property
    def full(self) -> bool:
        if self._size >= _HIGH:
            self._was_full = True
        return self._was_full

    def write(self, stream: int, data: bytes) -> None:
        if self._ended.is_set():
            return
        view = memoryview(data)
        if not self._queue and self._fd >= 0:
            view = view[self._try(view) :]
        if len(view) and not self._ended.is_set():
            self._queue.append(view)
            self._size += len(view)
            self._watch()

    def release(self) -> None:
        self._streams -= 1
        if self._streams <= 0 and not self._queue:
            self.close()

    def close(self) -> None:
        if self._writing:
            self._loop.remove_writer(self._fd)
            self._writing = False
        self._queue.clear()
        self._size = 0
        self._was_full = False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if not self._ended.is_set():
            self._ended.set()
            self._resume()

    async def flushed(self) -> None:
        await self._ended.wait()

    def _watch(self) -> None:
        if not self._writing and self._fd >= 0:
            self._loop.add_writer(self._fd, self._flush)
            self._writing = True

    def _try(self, view: memoryview) -> int:
        try:
            return os.write(self._fd, view)
        except BlockingIOError:
            return 0
        except OSError as error:
            log.warning("output is dropped: %s", error)
            self.close()
            return 0

    def _flush(self) -> None:
        while self._queue:
            view = self._queue[0]
            size = self._try(view)
            if not self._queue:
                return  # closed on an error
            self._size -= size
            if size < len(view):
                self._queue[0] = view[size:]
                break
            self._queue.popleft()
        if not self._queue:
            self._loop.remove_writer(self._fd)
            self._writing = False
            if self._streams <= 0:
                self.close()
        if self._was_full and self._size <= _LOW:
            self._was_full = False
            self._resume()


class FifoSink(DescriptorSink):
    """Writes to a FIFO that a client made.

    It waits for the first reader, so that nothing is lost to one who is late; from then on it holds a reading
    end of its own, so that readers may come and go.
    """

    def __init__(self, path: str, resume: Callable[[], None], streams: int) -> None:
        super().__init__(-1, resume, streams)
        self._path = path
        self._reading_end = -1
        self._retry: asyncio.TimerHandle | None = None
        self._delay = _RETRY_FIRST
        self._connect()

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        super().close()
        if self._reading_end >= 0:
            os.close(self._reading_end)
            self._reading_end = -1

    def release(self) -> None:
        # Ending without ever having met the reader would leave it waiting for a writer for ever.
        self._streams -= 1
        if self._streams <= 0 and not self._queue and self._fd >= 0:
            self.close()

    def _connect(self) -> None:
        self._retry = None
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: nobody reads yet
                log.warning("cannot open FIFO %s: %s", self._path, error)
                self.close()
                return
            self._retry = self._loop.call_later(self._delay, self._connect)
            self._delay = min(self._delay * 2, _RETRY_LAST)
            return
        self._reading_end = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if self._queue:
            self._watch()
        elif self._streams <= 0:
            self.close()


class FileSink:
    """Appends to a regular file. Writes go to the page cache, so they are made in the loop."""

    full = False

    def __init__(self, fd: int, streams: int) -> None:
        self._fd = fd
        self._streams = streams

    def write(self, stream: int, data: bytes) -> None:
        if self._fd < 0:
            return
        try:
            view = memoryview(data)
            while len(view):
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            log.warning("output to a file is dropped: %s", error)

    def release(self) -> None:
        self._streams -= 1
        if self._streams <= 0:
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def flushed(self) -> None:
        return


def open_path(path: str, resume: Callable[[], None], streams: int) -> FifoSink | FileSink:
    """A sink for a path that a client names: a FIFO, or a file to append to.

    :raises NotFound: it is not there
    :raises FailedPrecondition: it cannot be opened
    """
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):  # noqa: PTH116
            return FifoSink(path, resume, streams)
        return FileSink(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), streams)
    except FileNotFoundError as error:
        raise NotFound(f"cannot open {path!r} for output: no such file") from error
    except OSError as error:
        raise FailedPrecondition(f"cannot open {path!r} for output: {error.strerror}") from error


def open_file(path: str, streams: int) -> FileSink:
    """A sink for ``file://``: the file and its folders are made if they are not there.

    :raises InvalidArgument: the path is not absolute
    :raises FailedPrecondition: it cannot be opened
    """
    if not path.startswith("/"):
        raise InvalidArgument(f"malformed stream 'file://{path}': want file:///PATH")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return FileSink(os.open(path, flags, 0o644), streams)
    except OSError as error:
        raise FailedPrecondition(f"cannot open {path!r} for output: {error.strerror}") from error


def pipe_sink(resume: Callable[[], None]) -> tuple[DescriptorSink, int]:
    """A sink into a pipe and the pipe's reading end, which is the caller's to hand on and close."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    return DescriptorSink(writing, resume, 1), reading
