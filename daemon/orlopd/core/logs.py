"""Reading a container's log, which the shim writes and rotates while it is read.

A line of the file is ``TIME stdout|stderr P|F BYTES`` (CRI's format: F ends a line of the container's, P
is a piece of one) or ``{"log": TEXT, "stream": "stdout"|"stderr", "time": TIME}`` (Docker's: the text of
an ended line ends with a newline). A log may have both, one after the other. Rotated files lie beside the
log: ``output.log.1`` is the newest of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import anyio
from anyio import to_thread

_BLOCK = 64 << 10
_MOST_LINE = 1 << 20
_BATCH = 512
_POLLS = (0.02, 0.05, 0.1, 0.2)
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A piece of a log, at most a line. ``fd`` is 1 or 2; ``data`` ends with a newline if the line does."""

    at: datetime
    fd: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What to read. ``tail`` None is everything, ``since`` is inclusive, ``until`` exclusive."""

    tail: int | None = None
    since: datetime | None = None
    until: datetime | None = None


EVERYTHING = LogQuery()


async def read_log(
    path: Path, query: LogQuery = EVERYTHING, *, ended: anyio.Event | None = None
) -> AsyncIterator[LogEntry]:
    """What the log at ``path`` holds; with ``ended`` also what is written until that event is set.

    Rotations meanwhile lose and repeat nothing, unless so many happen between two looks that the
    file that was being read is gone. A missing log is an empty one. Symlinks are not followed.
    """
    cursor = _Cursor(path)
    quiet = 0
    try:
        await to_thread.run_sync(cursor.begin, query.tail)
        while True:
            # Asked before reading: what was written before the end is then sure to be seen.
            last = ended is None or ended.is_set()
            batch = await to_thread.run_sync(cursor.read, last)
            for entry in batch:
                if query.until and entry.at >= query.until:
                    return
                if not query.since or entry.at >= query.since:
                    yield entry
            if batch:
                quiet = 0
                continue
            if last:
                return
            if query.until and datetime.now(UTC) >= query.until:
                return
            if ended is not None:
                with anyio.move_on_after(_POLLS[min(quiet, len(_POLLS) - 1)]):
                    await ended.wait()
            quiet += 1
    finally:
        cursor.close()


def parse_line(line: bytes) -> LogEntry | None:
    """One line of the file, without its newline; None where it is malformed."""
    return _parse_json(line) if line.startswith(b"{") else _parse_cri(line)


def _parse_json(line: bytes) -> LogEntry | None:
    try:
        found = json.loads(line)
        said, stream, at = found["log"], found["stream"], _parse_time(found["time"])
        # Bytes that are not UTF-8 are escaped as lone surrogates.
        data = said.encode("utf-8", "surrogateescape")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if at is None or stream not in ("stdout", "stderr"):
        return None
    return LogEntry(at, 1 if stream == "stdout" else 2, data)


def _parse_cri(line: bytes) -> LogEntry | None:
    parts = line.split(b" ", 3)
    if len(parts) < 3 or parts[1] not in (b"stdout", b"stderr"):
        return None
    at = _parse_time(parts[0].decode("ascii", "replace"))
    tags = parts[2].split(b":")
    if at is None or tags[0] not in (b"P", b"F"):
        return None
    data = parts[3] if len(parts) == 4 else b""
    return LogEntry(at, 1 if parts[1] == b"stdout" else 2, data + b"\n" if tags[0] == b"F" else data)


def _parse_time(text: str) -> datetime | None:
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    whole, fraction, zone = match.groups()
    try:
        # Nanoseconds are cut to the microseconds that a datetime holds.
        return datetime.fromisoformat(f"{whole}.{(fraction or '').ljust(6, '0')[:6]}{zone}")
    except ValueError:
        return None


class _Cursor:
    """A place in a log that follows its rotations. Everything blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self._skipping = False

    def begin(self, tail: int | None) -> None:
        """Go to the oldest line, or to the ``tail``-th from the end."""
        left = tail
        chosen: Path | None = None
        offset = 0
        for path in self._files():
            file = _open(path)
            if file is None:
                continue
            with file:
                chosen = path
                offset = 0
                if left is not None:
                    offset, left = _tail_offset(file, left)
            if left == 0 and tail is not None:
                break
        if chosen is not None:
            self._file = _open(chosen)
            if self._file is not None:
                self._file.seek(offset)

    def read(self, last: bool) -> list[LogEntry]:
        """The next entries, at most some hundred; none where there is nothing new.

        :param last: the writer is gone, so that an unfinished line will not be finished
        """
        while True:
            if self._file is None:
                self._file = _open(self._path)
                if self._file is None:
                    return []
            entries = self._entries()
            if entries:
                return entries
            following = self._next()
            if following is None:
                if last and self._rest:
                    entry, self._rest = parse_line(self._rest), b""
                    return [entry] if entry else []
                return []
            # The writer left this file for good before the next one appeared: look once more.
            entries = self._entries()
            if entries:
                following.close()
                return entries
            self._file.close()
            self._file, self._rest = following, b""

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _entries(self) -> list[LogEntry]:
        assert self._file is not None
        found: list[LogEntry] = []
        while len(found) < _BATCH:
            block = self._file.read(_BLOCK)
            if not block:
                break
            *lines, self._rest = (self._rest + block).split(b"\n")
            for line in lines:
                entry = None if self._skipping else parse_line(line)
                self._skipping = False
                if entry:
                    found.append(entry)
            if len(self._rest) > _MOST_LINE:  # no line of ours: drop it instead of holding it all
                self._rest, self._skipping = b"", True
        return found

    def _files(self) -> Iterator[Path]:
        """The log and its rotations, newest first."""
        yield self._path
        rotated: list[tuple[int, Path]] = []
        prefix = self._path.name + "."
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._path.parent):
                number = entry.name.removeprefix(prefix)
                if entry.name.startswith(prefix) and number.isdecimal():
                    rotated.append((int(number), Path(entry.path)))
        for _, path in sorted(rotated):
            yield path

    def _next(self) -> BinaryIO | None:
        """The file after the open one, or None while it is the newest."""
        assert self._file is not None
        here = os.fstat(self._file.fileno())
        newer: BinaryIO | None = None
        for path in self._files():
            file = _open(path)
            if file is None:
                continue
            info = os.fstat(file.fileno())
            if (info.st_dev, info.st_ino) == (here.st_dev, here.st_ino):
                file.close()
                return newer
            if newer is not None:
                newer.close()
            newer = file
        return newer


def _open(path: Path) -> BinaryIO | None:
    # A log that is a symlink (CVE-2026-53489) or a FIFO was not made by a shim.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return open(fd, "rb", buffering=0)  # noqa: PTH123


def _tail_offset(file: BinaryIO, lines: int) -> tuple[int, int]:
    """Where the last ``lines`` whole lines of the container's begin, and how many are still missing."""
    position = file.seek(0, os.SEEK_END)
    if lines <= 0:
        return position, 0
    rest = b""
    fresh = True
    found = 0
    while position > 0:
        size = min(_BLOCK, position)
        position -= size
        file.seek(position)
        rest = file.read(size) + rest
        pieces = rest.split(b"\n")
        # The first piece may have begun before this block.
        end = position + len(rest)
        for piece in reversed(pieces[1:]):
            start = end - len(piece)
            if piece and (fresh or _ends_line(piece)):
                fresh = False
                if found == lines:
                    return end + 1, 0
                found += 1
            end = start - 1
        rest = pieces[0]
        if len(rest) > _MOST_LINE:
            return position, 0
    if rest and (fresh or _ends_line(rest)):
        if found == lines:
            return len(rest) + 1, 0
        found += 1
    return 0, lines - found


def _ends_line(piece: bytes) -> bool:
    if piece.startswith(b"{"):
        entry = _parse_json(piece)
        return entry is not None and entry.data.endswith(b"\n")
    parts = piece.split(b" ", 3)
    return len(parts) > 2 and parts[2].split(b":")[0] == b"F"
