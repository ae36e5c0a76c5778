"""The metadata database: one SQLite file, one writer, readers that never wait for it.

A change is a function over a connection that runs in one transaction in a thread. What
:meth:`Database.write` returned is on the disk: write-ahead log, ``synchronous=FULL``. Changes that wait
while the disk is busy with others share the next transaction, each undone alone if it fails. A change that
need not outlive the machine is in the log without being synced; the next that must takes it along.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from orlopd.plugin.errors import (
    DataLoss,
    FailedPrecondition,
    Internal,
    OrlopError,
    ResourceExhausted,
    Unavailable,
)
from orlopd.plugin.files import disk_is_full
from orlopd.plugin.threads import Threads
from orlopd.plugin.values import NO_LABELS, Labels

from . import schema
from .shield import shielded

log = logging.getLogger("orlopd.db")

T = TypeVar("T")
Connection = sqlite3.Connection

READERS = 4
BATCH = 64
"""How many changes may share a transaction."""
_BLOCK = 256
_MOST_TOLD = 1000
_told: set[str] = set()
_BUSY_SECONDS = 10.0


class _Change:
    """A change on its way: first in the queue, then with its result or error."""

    __slots__ = ("alone", "done", "durable", "error", "fn", "result", "turn")

    def __init__(self, fn: Callable[[Connection], Any], alone: bool, durable: bool) -> None:
        self.fn = fn
        self.alone = alone
        self.durable = durable
        self.turn = anyio.Event()
        """Set when it is done, or when it is the first in the queue and is to take the others along."""
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


class Database:
    """The open database. Made by :meth:`open`, ended by :meth:`aclose`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = Threads(1)
        self._queue: list[_Change] = []
        self._writing = False
        self._reading = Threads(READERS)
        self._idle: list[Connection] = []
        self._connections: list[Connection] = []
        self._writer: Connection | None = None
        self._syncing = True
        self._next_id = self._last_id = 0
        self._id_lock = anyio.Lock()
        self._owed: list[Callable[[Connection], object]] = []
        self.on_write: list[Callable[[], None]] = []
        """Called in the event loop after every change."""

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or make the database at ``path`` and bring its schema up to date.

        :raises FailedPrecondition: a newer program wrote it, or it is not such a database at all
        :raises DataLoss: it is damaged; it is left as it is
        """
        database = cls(path)
        try:
            await database._thread.run(database._open)
        except BaseException:
            await database._thread.aclose()
            raise
        return database

    def _open(self) -> None:
        with _translated(self.path):
            # Made here so that it is never readable for others, not even for a moment.
            self.path.touch(mode=0o600)
            writer = self._connect()
            try:
                schema.prepare(writer, self.path)
            except BaseException:
                writer.close()
                raise
            self._writer = writer

    def _connect(self, *, read_only: bool = False) -> Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        self._connections.append(connection)
        connection.execute("PRAGMA foreign_keys = ON")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        return connection

    async def aclose(self) -> None:
        """Close every connection. Nobody may use the database any more."""

        def close() -> None:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

        with shielded():
            await self._reading.aclose()
            await self._thread.run(close)
            await self._thread.aclose()

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """What ``fn`` gives, run in a thread over one consistent state of the database."""

        def run() -> T:
            with _translated(self.path):
                try:
                    connection = self._idle.pop()
                except IndexError:
                    connection = self._connect(read_only=True)
                try:
                    with _transaction(connection, "BEGIN"):
                        return fn(connection)
                finally:
                    self._idle.append(connection)

        return await self._reading.run(run)

    async def write(self, fn: Callable[[Connection], T], *, alone: bool = False, durable: bool = True) -> T:
        """What ``fn`` gives, run in a thread as one change; undone whole if it raises.

        Once begun it is not cancelled: it has happened, or not, when this returns or raises.

        :param alone: share no transaction, as is right for a change of very many rows: keeping what it takes
            to undo it without the others would cost more than the change
        :param durable: false for what may be undone if the machine dies before another change is made:
            it does not wait for a disk that is busy. The death of the daemon alone undoes nothing.
        """
        await checkpoint_if_cancelled()
        change = _Change(fn, alone, durable)
        self._queue.append(change)
        if self._writing:
            try:
                await change.turn.wait()
            except BaseException:
                if change in self._queue:
                    self._queue.remove(change)
                    if change.turn.is_set():
                        self._pass_on()
                    raise
                # Begun by another, who does not wait for cancellation either.
                with shielded():
                    await change.turn.wait()
        if not change.done:
            await self._write_queue()
        if change.error is not None:
            raise change.error
        for listener in self.on_write:
            listener()
        return change.result

    async def _write_queue(self) -> None:
        """Make the changes that wait, the caller's first; whoever waits then goes on with the rest."""
        self._writing = True
        changes = self._queue[:BATCH]
        most = next((place for place, change in enumerate(changes) if change.alone), len(changes)) or 1
        del changes[most:]
        del self._queue[:most]
        try:
            with shielded():
                await self._thread.run(lambda: self._make(changes))
        except BaseException as error:
            for change in changes:
                change.error = change.error or error
        finally:
            for change in changes:
                change.done = True
                change.turn.set()
            self._pass_on()

    def _pass_on(self) -> None:
        self._writing = bool(self._queue)
        if self._queue:
            self._queue[0].turn.set()

    def _make(self, changes: Sequence[_Change]) -> None:
        """Make changes in one transaction, in the thread; what each gives or raises is noted in it."""
        try:
            if self._writer is None:
                raise Internal("the metadata database is closed")
            owed = tuple(self._owed)
            self._sync(bool(owed) or any(change.durable for change in changes))
            with _transaction(self._writer, "BEGIN IMMEDIATE"):
                for make in owed:
                    make(self._writer)
                for change in changes:
                    if len(changes) == 1:
                        change.result = change.fn(self._writer)
                    else:
                        self._attempt(self._writer, change)
            del self._owed[: len(owed)]
        except BaseException as error:
            # None of them has happened.
            for change in changes:
                change.error = change.error or _translate(self.path, error)

    def _sync(self, wanted: bool) -> None:
        """Have the next transactions synced, or not; either way they are in the log in their order."""
        if self._writer is not None and wanted != self._syncing:
            self._writer.execute(f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
            self._syncing = wanted

    def _attempt(self, writer: Connection, change: _Change) -> None:
        writer.execute("SAVEPOINT change")
        try:
            change.result = change.fn(writer)
        except BaseException as error:
            change.error = _translate(self.path, error)
            if not writer.in_transaction:
                # SQLite gave the whole transaction up: the disk is full, or failed.
                raise
            writer.execute("ROLLBACK TO change")
        writer.execute("RELEASE change")

    def owe(self, change: Callable[[Connection], object]) -> None:
        """Have ``change`` made together with the next one that succeeds.

        For what has to follow something that has happened already, when the disk is full or fails. It is
        forgotten if the daemon dies first: only for what the next start would find by itself.
        """
        self._owed.append(change)

    async def next_id(self) -> int:
        """A number never given before, not even before a crash. Larger than all before it."""
        async with self._id_lock:
            if self._next_id >= self._last_id:
                # Taken in blocks, so that an id rarely costs a transaction of its own.
                self._last_id = await self.write(_reserve)
                self._next_id = self._last_id - _BLOCK
            self._next_id += 1
            return self._next_id


def _reserve(conn: Connection) -> int:
    row = conn.execute(
        "UPDATE counters SET value = value + ? WHERE name = 'id' RETURNING value", (_BLOCK,)
    ).fetchone()
    return int(row[0])


@contextmanager
def _transaction(connection: Connection, begin: str) -> Generator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _translated(path: Path) -> Generator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise _translate(path, error) from error


def _translate(path: Path, error: BaseException) -> BaseException:
    """The error of the house for one of SQLite's or the system's, which is its cause; others as they are."""
    if isinstance(error, sqlite3.Error):
        translated = _error(path, error)
    elif isinstance(error, OSError):
        translated = FailedPrecondition(f"cannot use the metadata database {path}: {error.strerror}")
    else:
        return error
    translated.__cause__ = error
    return translated


def _error(path: Path, error: sqlite3.Error) -> OrlopError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and disk_is_full(path)):
        return ResourceExhausted(
            f"the disk of the metadata database {path} is full",
            reason="DISK_FULL",
            hint="make room and try again",
        )
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return schema.damaged(path, str(error))
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}:
        return Unavailable(f"the metadata database {path} cannot be used now: {error}")
    if code == sqlite3.SQLITE_READONLY:
        return FailedPrecondition(f"the metadata database {path} cannot be written: {error}")
    return Internal(f"metadata database {path}: {error}")


_decode = json.JSONDecoder().raw_decode

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(at: datetime) -> int:
    """A time as the database keeps it: microseconds since 1970, UTC."""
    return (at - _EPOCH) // _MICROSECOND


def from_micros(value: int) -> datetime:
    """The time that :func:`to_micros` made a number of."""
    return _EPOCH + timedelta(0, 0, value)


def dump_labels(labels: Labels) -> str:
    """Labels as the database keeps them. An empty value is no label, as in containerd."""
    kept = {key: value for key, value in labels.items() if value}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")) if kept else ""


def load_labels(text: str) -> Labels:
    """The labels that :func:`dump_labels` wrote. :raises DataLoss: it did not write these"""
    return _load_labels(text) if text else NO_LABELS


# Labels cannot be changed, and many objects have the same: a list takes half the time so.
@lru_cache(maxsize=512)
def _load_labels(text: str) -> Labels:
    try:
        # Ours, without whitespace around it, which the decoder need not look for.
        return MappingProxyType(_decode(text)[0])
    except (ValueError, TypeError) as error:
        raise DataLoss(
            f"labels in the metadata database cannot be read: {error}",
            reason="ROW_DAMAGED",
            hint="mend it with: orlop system fsck --repair",
        ) from None


def readable(decode: Callable[[tuple[Any, ...]], T], rows: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """The rows, decoded. One that is damaged is left out and logged: it is not to hide the others."""
    for row in rows:
        try:
            found = decode(row)
        except (DataLoss, ValueError, TypeError, KeyError, AttributeError) as error:
            name = " ".join(each for each in row[:3] if isinstance(each, str))
            if name not in _told and len(_told) < _MOST_TOLD:
                _told.add(name)
                log.warning("a damaged row is left out (orlop system fsck tells more): %s: %s", name, error)
            continue
        yield found


def insert(conn: Connection, table: str, values: Mapping[str, Any]) -> None:
    """Add a row; the names are ours, never a caller's."""
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    conn.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(values.values()))
