"""The journal: the latest events, on the disk, so that they can be told again.

A SQLite file of its own, bounded in number and bytes; the oldest go first. Publishing only appends to a list
in memory; a task writes what has come together in one transaction, always in order. What is written is in
the kernel's hands, so no end of the daemon loses it; `kill -9` can lose the events of the few milliseconds
that a transaction takes. A power cut can lose what the kernel had not put on the disk, half a minute as a
rule, from the end, never the file.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.abc import TaskStatus

from orlopd.plugin.errors import DataLoss, FailedPrecondition, OrlopError, Unavailable
from orlopd.plugin.values import Event, TypedBytes, now

from .db import from_micros, to_micros
from .event_fields import dump_fields, load_fields
from .shield import shielded

log = logging.getLogger("orlopd.events")

T = TypeVar("T")

VERSION = 1
MOST = 100_000
MOST_BYTES = 64 << 20
WAITING = 16384
"""How many events may wait to be written before later ones are left out, and the hole noted."""

_BATCH = 1000
_PAGE = 500
_RETRY = 1.0
_GATHER = 0.01
_FLUSH = 10.0
_OVERHEAD = 64  # about what SQLite needs for a row beside its text

_TABLES = f"""
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    -- Empty for a hole: events that were left out, the first `at`, the last `recorded_at`.
    topic TEXT NOT NULL,
    message TEXT NOT NULL,
    fields TEXT NOT NULL,
    raw_type TEXT,
    raw BLOB,
    size INTEGER NOT NULL
);
-- One row: from when on all events are here, and what they come to.
CREATE TABLE journal (begins_at INTEGER NOT NULL, count INTEGER NOT NULL, bytes INTEGER NOT NULL);
PRAGMA user_version = {VERSION};
"""
_COLUMNS = "seq, at, recorded_at, namespace, topic, message, fields, raw_type, raw"
_Record = tuple[int, int, int, str, str, str, str, str | None, bytes | None, int]


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that cannot be told: from ``since`` on some may be missing, from ``until`` on all are there."""

    since: datetime
    until: datetime
    reason: str


@dataclass(slots=True)
class _Waiting:
    seq: int
    recorded_at: datetime
    event: Event | None
    since: datetime
    """For a hole, which has no event: when it began."""


class Journal:
    """The open journal. Made by :meth:`open`, written by :meth:`run`, ended by :meth:`aclose`."""

    def __init__(self, path: Path, *, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self.path = path
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[_Waiting] = deque()
        self._last = self._written = 0
        self._wake = anyio.Event()
        self._progress = anyio.Event()
        self._writer: sqlite3.Connection | None = None
        self._write_limiter = CapacityLimiter(1)
        self._read_limiter = CapacityLimiter(2)

    @classmethod
    async def open(cls, path: Path, *, most: int = MOST, most_bytes: int = MOST_BYTES) -> Self:
        """Open the journal at ``path``; a missing one is made, a damaged one put aside and begun anew.

        :param most: how many events it keeps
        :param most_bytes: how many bytes they may come to, about
        :raises FailedPrecondition: a newer program wrote it, or it cannot be opened
        """
        journal = cls(path, most=most, most_bytes=most_bytes)
        await to_thread.run_sync(journal._open)
        return journal

    @property
    def position(self) -> int:
        """The number of the latest event."""
        return self._last

    def record(self, event: Event) -> None:
        """Have an event written. Returns at once; the order of calls is the order in the journal."""
        at = now()
        full = len(self._waiting) >= WAITING
        if full and self._waiting[-1].event is None:
            self._waiting[-1].recorded_at = at
            return
        self._last += 1
        self._waiting.append(_Waiting(self._last, at, None if full else event, at))
        self._wake.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Write what is recorded, until cancelled. A disk that is full or broken is tried again."""
        task_status.started()
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            await anyio.sleep(_GATHER)  # one turn for what comes together, and none amid a call
            while self._waiting:
                try:
                    await self._write_some()
                except (sqlite3.Error, OSError) as error:
                    log.warning("cannot write the journal of events %s, will try again: %s", self.path, error)
                    await anyio.sleep(_RETRY)

    async def aclose(self) -> None:
        """Write what still waits, and close."""
        with shielded():
            try:
                while self._waiting:
                    await self._write_some()
            except (sqlite3.Error, OSError) as error:
                log.warning("%d events are not in the journal: %s", len(self._waiting), error)
            await to_thread.run_sync(self._close, limiter=self._write_limiter)

    async def read(self, since: datetime, position: int) -> AsyncIterator[Event | Gap]:
        """The events from ``since`` up to number ``position``, in the order in which they were published.

        :raises Unavailable: the journal cannot be written or read at present
        :raises DataLoss: it is damaged
        """
        await self._wait_for(position)
        after, begins = await self._read(lambda conn: _start(conn, to_micros(since)))
        if to_micros(since) < begins:
            yield Gap(since, from_micros(begins), "the journal of events does not go back further")
        last = since
        while after is not None and after < position:

            def page(conn: sqlite3.Connection, after: int = after) -> list[tuple[int, Event | Gap]]:
                rows = conn.execute(
                    f"SELECT {_COLUMNS} FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT {_PAGE}",
                    (after, position),
                )
                return [(row[0], _load(row)) for row in rows]

            found = await self._read(page)
            if not found:
                yield Gap(last, now(), "the journal dropped its oldest events while they were read")
                return
            if found[0][0] != after + 1:
                first = found[0][1]
                until = first.at if isinstance(first, Event) else first.until
                yield Gap(
                    last, max(last, until), "the journal dropped its oldest events while they were read"
                )
            for _, item in found:
                last = item.at if isinstance(item, Event) else item.until
                if last >= since:
                    yield item
            after = found[-1][0]

    async def _wait_for(self, position: int) -> None:
        with anyio.move_on_after(_FLUSH):
            while self._written < position:
                await self._progress.wait()
        if self._written < position:
            raise Unavailable(
                f"the journal of events {self.path} cannot be written at present",
                reason="JOURNAL_NOT_WRITTEN",
                hint="see the daemon's log; is the disk full?",
            )

    async def _write_some(self) -> None:
        batch = list(islice(self._waiting, _BATCH))
        with shielded():
            await to_thread.run_sync(self._write, batch, limiter=self._write_limiter)
        for _ in batch:
            self._waiting.popleft()
        self._written = batch[-1].seq
        self._progress.set()
        self._progress = anyio.Event()

    # Everything below runs in threads.

    def _open(self) -> None:
        try:
            try:
                self._prepare()
            except sqlite3.DatabaseError as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code not in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                    raise
                aside = self.path.with_name(self.path.name + ".damaged")
                self.path.replace(aside)
                for end in ("-wal", "-shm"):
                    self.path.with_name(self.path.name + end).unlink(missing_ok=True)
                log.warning("the journal of events is damaged (%s): moved to %s, begun anew", error, aside)
                self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise FailedPrecondition(f"cannot use the journal of events {self.path}: {error}") from error

    def _prepare(self) -> None:
        self.path.touch(mode=0o600)
        conn = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=_FLUSH)
        try:
            version = conn.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise FailedPrecondition(
                    f"the journal of events {self.path} has version {version}, this orlopd knows {VERSION}",
                    reason="SCHEMA_TOO_NEW",
                    hint=f"run the newer orlopd that wrote it, or move {self.path} away",
                )
            conn.execute("PRAGMA journal_mode = WAL")
            conn.execute("PRAGMA synchronous = NORMAL")
            if version == 0:
                conn.executescript(f"BEGIN; {_TABLES} COMMIT;")
            if conn.execute("SELECT count(*) FROM journal").fetchone()[0] == 0:
                conn.execute("INSERT INTO journal VALUES (?, 0, 0)", (to_micros(now()),))
            (last,) = conn.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
        except BaseException:
            conn.close()
            raise
        self._writer = conn
        self._last = self._written = int(last)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, batch: Sequence[_Waiting]) -> None:
        conn = self._writer
        if conn is None:
            raise sqlite3.ProgrammingError("it is closed")
        records = [_dump(each) for each in batch]
        with _transaction(conn, "BEGIN IMMEDIATE"):
            marks = ", ".join("?" * 10)
            conn.executemany(f"INSERT INTO events ({_COLUMNS}, size) VALUES ({marks})", records)
            conn.execute(
                "UPDATE journal SET count = count + ?, bytes = bytes + ?",
                (len(records), sum(record[-1] for record in records)),
            )
            self._trim(conn)

    def _trim(self, conn: sqlite3.Connection) -> None:
        count, size = conn.execute("SELECT count, bytes FROM journal").fetchone()
        if count <= self._most and size <= self._most_bytes:
            return
        # Somewhat more than needed, so that not every write has to.
        goal, goal_bytes = self._most - self._most // 50, self._most_bytes - self._most_bytes // 50
        last = 0
        begins: list[int] = []
        for seq, recorded_at, its_size in conn.execute(
            "SELECT seq, recorded_at, size FROM events ORDER BY seq"
        ):
            if count <= goal and size <= goal_bytes:
                break
            last, count, size = seq, count - 1, size - its_size
            begins.append(recorded_at)
        conn.execute("DELETE FROM events WHERE seq <= ?", (last,))
        conn.execute(
            "UPDATE journal SET count = ?, bytes = ?, begins_at = max(begins_at, ?)",
            (count, size, max(begins, default=0) + 1),
        )

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            with _readable(self.path), closing(sqlite3.connect(self.path, isolation_level=None)) as conn:
                conn.execute("PRAGMA query_only = ON")
                with _transaction(conn, "BEGIN"):
                    return query(conn)

        return await to_thread.run_sync(run, limiter=self._read_limiter)


def _start(conn: sqlite3.Connection, since: int) -> tuple[int | None, int]:
    (first,) = conn.execute("SELECT min(seq) FROM events WHERE at >= ? OR topic = ''", (since,)).fetchone()
    (begins,) = conn.execute("SELECT begins_at FROM journal").fetchone()
    return None if first is None else int(first) - 1, int(begins)


def _dump(waiting: _Waiting) -> _Record:
    event = waiting.event
    recorded = to_micros(waiting.recorded_at)
    if event is None:
        return (waiting.seq, to_micros(waiting.since), recorded, "", "", "", "", None, None, _OVERHEAD)
    fields = dump_fields(event.fields)
    raw_type, raw = (event.raw.type_url, event.raw.value) if event.raw is not None else (None, None)
    size = _OVERHEAD + len(event.namespace) + len(event.topic) + len(event.message) + len(fields)
    size += len(raw_type or "") + len(raw or b"")
    at = to_micros(event.at)
    return (
        *(waiting.seq, at, recorded, event.namespace, event.topic, event.message, fields),
        *(raw_type, raw, size),
    )


def _load(row: tuple[int, int, int, str, str, str, str, str | None, bytes | None]) -> Event | Gap:
    _, at, recorded, namespace, topic, message, fields, raw_type, raw = row
    if not topic:
        return Gap(from_micros(at), from_micros(recorded), "events came faster than they could be written")
    typed = None if raw_type is None else TypedBytes(raw_type, raw or b"")
    return Event(from_micros(at), namespace, topic, message, load_fields(fields), typed)


@contextmanager
def _transaction(conn: sqlite3.Connection, begin: str) -> Generator[None]:
    conn.execute(begin)
    try:
        yield
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise


@contextmanager
def _readable(path: Path) -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        kind: type[OrlopError] = Unavailable
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            kind = DataLoss
        raise kind(
            f"cannot read the journal of events {path}: {error}",
            hint="if it is damaged, the next start of the daemon puts it aside and begins it anew",
        ) from error
