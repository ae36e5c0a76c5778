"""A foreign shim's events: kept in the task's folder, so that a later daemon goes on where this one was."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
from google.protobuf.message import DecodeError

from orlop_protos.containerd.events import task_pb2 as events
from orlop_protos.containerd.types import event_pb2
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.runtime import Exit, TaskEvent

from ..oci import journal
from ..oci.convert import event_of
from ..oci.wire import from_timestamp, to_timestamp


class History:
    """One task's events. Used from the event loop only."""

    def __init__(self, folder: Path, id: str) -> None:
        self._id = id
        self._path = folder / journal.FILE
        self._journal = journal.Journal(self._path)
        self._reason = ""
        self.told_delete = anyio.Event()
        """Set when the shim has told of the task's deletion."""

    def take(self, envelope: event_pb2.Envelope) -> None:
        """Keep what the shim forwarded. :raises InvalidArgument: it is no event of a task"""
        record = journal.Record(topic=envelope.topic, event=envelope.event)
        try:
            self._add(journal.unpack(record))
        except (ValueError, DecodeError) as error:
            raise InvalidArgument(f"an event that is not understood: {error}") from error

    def ended(self) -> Exit | None:
        """How the main process ended, if it is known."""
        for record in journal.read(self._path):
            message = journal.unpack(record)
            if record.topic == "/tasks/exit" and message.id == self._id:
                return Exit(message.exit_status, from_timestamp(message.exited_at))
        return None

    def has(self, topic: str) -> bool:
        """Whether there was such an event."""
        return any(record.topic == topic for record in journal.read(self._path))

    def end(self, pid: int, end: Exit) -> None:
        """Note the end of the main process, unless the shim told it."""
        self._reason = end.reason
        if self.ended() is None:
            self._add(
                events.TaskExit(
                    container_id=self._id,
                    id=self._id,
                    pid=pid,
                    exit_status=end.code,
                    exited_at=to_timestamp(end.at),
                )
            )

    def delete(self, pid: int, end: Exit) -> None:
        """Note the task's deletion, unless the shim told it, and end all follow()."""
        if not self.told_delete.is_set():
            self._add(
                events.TaskDelete(
                    container_id=self._id, pid=pid, exit_status=end.code, exited_at=to_timestamp(end.at)
                )
            )
        self._journal.close()

    async def follow(self, after: int) -> AsyncIterator[TaskEvent]:
        """Events after a number, then those to come until the task is deleted."""
        async for record in self._journal.follow(after):
            yield event_of(record, self._reason if record.topic == "/tasks/exit" else "")
            self._journal.forget(record.sequence)  # who asks for the next has handled it

    def _add(self, message: Any) -> None:
        self._journal.add(message)
        if isinstance(message, events.TaskDelete):
            self.told_delete.set()


def dead(code: int) -> Exit:
    """An end that nobody saw."""
    return Exit(code, datetime.now(UTC), "shim lost")


def remove(path: Path) -> None:
    """Remove a socket that its owner left."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
