"""A container's log in the format of the Kubernetes container runtime interface.

One line for each: ``2006-01-02T15:04:05.999999999Z stdout F text``. F (full) stands for text that ended with
a newline; P (partial) for a piece of a line, to be joined with the next of its stream. An unfinished line is
written as P after a short while and at the end, so that the log always has what the process wrote, byte for
byte.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

from orlopd.plugin.errors import FailedPrecondition, InvalidArgument

log = logging.getLogger(__name__)

_LONGEST = 16 << 10
_PATIENCE = 0.1
_NAMES = {1: b"stdout", 2: b"stderr"}


class CriLogSink:
    """Writes both streams to one file, which it owns."""

    full = False

    def __init__(self, path: str, streams: int) -> None:
        if not path.startswith("/"):
            raise InvalidArgument(f"the log's path {path!r} must be absolute")
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            # O_NOFOLLOW: a log that was replaced by a symlink leads nowhere (CVE-2026-53489).
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(path, flags, 0o640)
        except OSError as error:
            raise FailedPrecondition(f"cannot open the log {path!r}: {error.strerror}") from error
        self._streams = streams
        self._rest: dict[int, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None

    def write(self, stream: int, data: bytes) -> None:
        if self._fd < 0:
            return
        stamp = _now()
        rest = self._rest.pop(stream, b"")
        *lines, tail = (rest + data).split(b"\n")
        full = _prefix(stamp, stream, b"F")
        partial = _prefix(stamp, stream, b"P")
        out: list[bytes] = []
        for line in lines:
            while len(line) > _LONGEST:
                out += (partial, line[:_LONGEST], b"\n")
                line = line[_LONGEST:]
            out += (full, line, b"\n")
        while len(tail) >= _LONGEST:
            out += (partial, tail[:_LONGEST], b"\n")
            tail = tail[_LONGEST:]
        if tail:
            self._rest[stream] = tail
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._flush)
        self._put(b"".join(out))

    def release(self) -> None:
        self._streams -= 1
        self._flush()
        if self._streams <= 0:
            self.close()

    def close(self) -> None:
        if self._fd < 0:
            return
        self._flush()
        os.close(self._fd)
        self._fd = -1

    async def flushed(self) -> None:
        return

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        stamp = _now()
        for stream, text in self._rest.items():
            self._put(_prefix(stamp, stream, b"P") + text + b"\n")
        self._rest.clear()

    def _put(self, data: bytes) -> None:
        if not data or self._fd < 0:
            return
        try:
            view = memoryview(data)
            while len(view):
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            log.warning("the container's log loses output: %s", error)


def _prefix(stamp: bytes, stream: int, tag: bytes) -> bytes:
    return b"%b %b %b " % (stamp, _NAMES[stream], tag)


def _now() -> bytes:
    nanos = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanos // 10**9)).encode() + b".%09dZ" % (
        nanos % 10**9
    )
