"""A shim's history, in memory for those who follow it and in a file for those who come when it is dead.

The file is a row of records: length (4 bytes, big-endian) and a serialized ``EventsResponse``. A record is
written with one write(2), so that a killed shim leaves whole records; a torn tail (power failure) is ignored.
It is not synced: no task outlives the kernel that keeps the file's pages.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections import deque
from collections.abc import AsyncIterator, Container, Iterator
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from orlop_protos.containerd.events import task_pb2 as events
from orlop_protos.orlop.shim.v1 import shim_pb2 as api

from .wire import to_timestamp

FILE = "events.journal"
_HEAD = struct.Struct(">I")
_MAX_RECORD = 1 << 20
_COMPACT_BYTES = 256 << 10
_MOST = 1000
Record = api.EventsResponse

_TOPICS: dict[str, str] = {
    "TaskCreate": "/tasks/create",
    "TaskStart": "/tasks/start",
    "TaskOOM": "/tasks/oom",
    "TaskExit": "/tasks/exit",
    "TaskDelete": "/tasks/delete",
    "TaskExecAdded": "/tasks/exec-added",
    "TaskExecStarted": "/tasks/exec-started",
    "TaskPaused": "/tasks/paused",
    "TaskResumed": "/tasks/resumed",
    "TaskCheckpointed": "/tasks/checkpointed",
}


def record_of(sequence: int, message: Any, at: datetime | None = None) -> Record:
    """An event as a record; ``message`` is one of containerd.events.Task*."""
    name = message.DESCRIPTOR.name
    packed = AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())
    return Record(
        sequence=sequence,
        at=to_timestamp(at or datetime.now(UTC)),
        topic=_TOPICS[name],
        event=packed,
    )


def read(path: Path) -> list[Record]:
    """All whole records of a journal, oldest first; none where there is no file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return list(_parse(data))


def append(path: Path, message: Any) -> Record:
    """Add one event to the journal of a shim that is dead."""
    records = read(path)
    record = record_of(records[-1].sequence + 1 if records else 1, message)
    kept = b"".join(_frame(item) for item in records) + _frame(record)
    _replace(path, kept)
    return record


def unpack(record: Record) -> Any:
    """The containerd.events message in a record.

    :raises ValueError: it is of no known type or malformed
    """
    name = record.event.type_url.rpartition("/")[2].rpartition(".")[2]
    kind = getattr(events, name, None) if name in _TOPICS else None
    if kind is None:
        raise ValueError(f"unknown event {record.event.type_url[:100]!r}")
    return kind.FromString(record.event.value)


class Journal:
    """The history of a living shim, going on from what the file has. Used from its event loop only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # As frames: an object of protobuf's takes ten times as much.
        self._records: deque[tuple[int, bytes]] = deque(
            (record.sequence, record.SerializeToString()) for record in read(path)
        )
        self._sequence = self._records[-1][0] if self._records else 0
        self._size = sum(_HEAD.size + len(data) for _, data in self._records)
        self._followers: set[asyncio.Event] = set()
        self._closed = False
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def add(self, message: Any) -> None:
        """Write an event down and show it to those who follow. In the file when this returns."""
        self._sequence += 1
        record = record_of(self._sequence, message)
        frame = _frame(record)
        os.write(self._fd, frame)
        self._size += len(frame)
        self._records.append((self._sequence, frame[_HEAD.size :]))
        for follower in self._followers:
            follower.set()

    def forget(self, until: int) -> None:
        """Drop what was handled; of the file only what tells of processes that may still run stays."""
        while self._records and self._records[0][0] <= until:
            self._records.popleft()
        if self._size > _COMPACT_BYTES:
            self._compact(until)

    async def follow(self, after: int) -> AsyncIterator[Record]:
        """Every event after a sequence number, then those to come, until the shim shuts down."""
        while batch := await self.next(after):
            for record in batch:
                yield record
            after = batch[-1].sequence

    async def next(self, after: int) -> list[Record]:
        """Some of the events after a sequence number, as soon as there are any; none when the shim shuts
        down."""
        news = asyncio.Event()
        self._followers.add(news)
        try:
            while True:
                news.clear()
                # From the newest back: of what was seen there may be much.
                later = list(takewhile(lambda item: item[0] > after, reversed(self._records)))
                if later or self._closed:
                    return [Record.FromString(data) for _, data in later[: -_MOST - 1 : -1]]
                await news.wait()
        finally:
            self._followers.discard(news)

    def release(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def close(self) -> None:
        """End all follow() once they have shown everything."""
        self._closed = True
        for follower in self._followers:
            follower.set()

    def _compact(self, until: int) -> None:
        data = self._path.read_bytes()
        # One record at a time: as objects, all of them would take ten times the file.
        exits = (unpack(record) for record in _parse(data) if record.topic == "/tasks/exit")
        ended = {(message.id, message.pid) for message in exits}
        kept = b"".join(
            _frame(record)
            for record in _parse(data)
            if record.sequence > until or _still_tells(record, ended)
        )
        _replace(self._path, kept)
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = len(kept)


def _still_tells(record: Record, ended: Container[tuple[str, int]]) -> bool:
    """Whether a record is of the main process's life, or of an exec that has not ended."""
    if record.topic in ("/tasks/create", "/tasks/start"):
        return True
    if record.topic == "/tasks/exec-started":
        message = unpack(record)
        return (message.exec_id, message.pid) not in ended
    if record.topic != "/tasks/exit":
        return False
    message = unpack(record)
    return message.id == message.container_id


def _frame(record: Record) -> bytes:
    data = record.SerializeToString()
    return _HEAD.pack(len(data)) + data


def _parse(data: bytes) -> Iterator[Record]:
    at = 0
    while at + _HEAD.size <= len(data):
        (size,) = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if size > _MAX_RECORD or at + size > len(data):
            return
        try:
            yield Record.FromString(data[at : at + size])
        except Exception:  # what protobuf raises differs by its implementation
            return
        at += size


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    fresh.rename(path)
