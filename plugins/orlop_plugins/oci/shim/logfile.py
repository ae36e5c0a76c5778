"""A container's log, as the shim writes and rotates it.

Each line of the container's is one of the file, a long one several. An unfinished line is written as a piece
after a short while and at the end, so that the log always has what the process wrote, byte for byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from orlopd.plugin.errors import FailedPrecondition, InvalidArgument

from .logformat import FORMATS, now

log = logging.getLogger(__name__)

_LONGEST = 16 << 10
_PATIENCE = 0.1


@dataclass(frozen=True, slots=True)
class LogKeeping:
    """How a log is kept: put aside at ``size`` bytes (0 for never), with so many ``files`` of those.

    ``PATH.1`` is the newest of them. ``format`` is one of :data:`.logformat.FORMATS`.
    """

    size: int = 0
    files: int = 0
    format: str = "cri"


PLAIN = LogKeeping()


class LogFile:
    """Writes both streams to one file, which it owns."""

    full = False

    def __init__(self, path: str, streams: int, keeping: LogKeeping = PLAIN) -> None:
        if not path.startswith("/"):
            raise InvalidArgument(f"the log's path {path!r} must be absolute")
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._fd = _open(path)
        except OSError as error:
            raise FailedPrecondition(f"cannot open the log {path!r}: {error.strerror}") from error
        self._path = path
        self._keeping = keeping
        self._line = FORMATS[keeping.format]
        self._size = os.fstat(self._fd).st_size
        self._streams = streams
        self._rest: dict[int, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None

    def write(self, stream: int, data: bytes) -> None:
        if self._fd < 0:
            return
        stamp = now()
        rest = self._rest.pop(stream, b"")
        *lines, tail = (rest + data).split(b"\n")
        out: list[bytes] = []
        for line in lines:
            while len(line) > _LONGEST:
                out.append(self._line(stamp, stream, line[:_LONGEST], False))
                line = line[_LONGEST:]
            out.append(self._line(stamp, stream, line, True))
        while len(tail) >= _LONGEST:
            out.append(self._line(stamp, stream, tail[:_LONGEST], False))
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
        stamp = now()
        for stream, text in self._rest.items():
            self._put(self._line(stamp, stream, text, False))
        self._rest.clear()

    def _put(self, data: bytes) -> None:
        """Write whole lines."""
        limit = self._keeping.size
        try:
            while data and self._fd >= 0:
                room = limit - self._size if limit else len(data)
                # At a line's end at or behind the limit.
                end = len(data) if len(data) < room or not limit else data.index(b"\n", max(room - 1, 0)) + 1
                view = memoryview(data)[:end]
                while len(view):
                    view = view[os.write(self._fd, view) :]
                self._size += end
                data = data[end:]
                if limit and self._size >= limit:
                    self._rotate()
        except OSError as error:
            log.warning("the container's log loses output: %s", error)

    def _rotate(self) -> None:
        """Put the file aside. Whoever reads it goes on in it and finds the next one by its number."""
        kept = self._keeping.files
        for number in range(kept - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{self._path}.{number}", f"{self._path}.{number + 1}")  # noqa: PTH104
        if kept:
            os.rename(self._path, f"{self._path}.1")  # noqa: PTH104
        else:
            os.unlink(self._path)  # noqa: PTH108
        fd = _open(self._path)
        os.close(self._fd)
        self._fd, self._size = fd, 0


def _open(path: str) -> int:
    # O_NOFOLLOW: a log that was replaced by a symlink leads nowhere (CVE-2026-53489).
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
