"""The rows behind :mod:`orlopd.plugin.snapshotter_base`."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    Internal,
    NotFound,
    OrlopError,
    Unavailable,
)
from .files import disk_full, disk_is_full
from .values import Labels, SnapshotInfo, SnapshotKind, Usage

_VERSION = 3
_PAGE = 500
_SCHEMA = """
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    parent INTEGER REFERENCES snapshots (id),
    kind TEXT NOT NULL,
    labels TEXT NOT NULL,
    created INTEGER NOT NULL, -- microseconds since 1970
    updated INTEGER NOT NULL,
    inodes INTEGER,           -- known some time after the commit
    size INTEGER
) STRICT;
CREATE INDEX snapshots_by_parent ON snapshots (parent);
"""
_UPGRADES = (
    _SCHEMA,
    # 2: a parent that came at commit may have the higher id, but never the higher rank.
    """
ALTER TABLE snapshots ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
UPDATE snapshots SET rank = id;
CREATE INDEX snapshots_by_rank ON snapshots (rank);
""",
    # 3: what a committed one has until it is on the disk, see _snapshot_sync.
    """
ALTER TABLE snapshots ADD COLUMN unsynced TEXT;
CREATE INDEX snapshots_unsynced ON snapshots (unsynced) WHERE unsynced IS NOT NULL;
""",
)
_NEXT_RANK = "(SELECT COALESCE(MAX(rank), 0) + 1 FROM snapshots)"
_ROWS = """
SELECT s.id, s.key, s.parent, p.key, s.kind, s.labels, s.created, s.updated, s.inodes, s.size, s.rank,
    s.unsynced
FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent
"""
_CHAIN = """
WITH RECURSIVE chain (id, parent, depth) AS (
    SELECT id, parent, 0 FROM snapshots WHERE id = ?
    UNION ALL SELECT s.id, s.parent, depth + 1 FROM snapshots s JOIN chain ON s.id = chain.parent
)
SELECT id FROM chain ORDER BY depth
"""
_MARKS = _CHAIN.replace(
    "SELECT id FROM chain ORDER BY depth",
    "SELECT DISTINCT unsynced FROM chain JOIN snapshots USING (id) WHERE unsynced IS NOT NULL",
)
_LOST = """
WITH RECURSIVE lost (id) AS (
    SELECT id FROM snapshots WHERE unsynced IS NOT NULL AND unsynced <> ? AND kind = 'committed'
    UNION SELECT s.id FROM snapshots s JOIN lost ON s.parent = lost.id
)
SELECT key FROM snapshots JOIN lost USING (id) ORDER BY rank DESC
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One snapshot."""

    id: int
    key: str
    parent_id: int | None
    parent: str
    kind: SnapshotKind
    labels: Labels
    created: int
    updated: int
    usage: Usage | None
    rank: int
    unsynced: str | None = None

    def info(self) -> SnapshotInfo:
        """As the contract has it."""
        return SnapshotInfo(
            name=self.key,
            kind=self.kind,
            parent=self.parent,
            labels=self.labels,
            created_at=_time(self.created),
            updated_at=_time(self.updated),
        )


def _time(micros: int) -> datetime:
    seconds, rest = divmod(micros, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)


def _now() -> int:
    return time.time_ns() // 1000


def _row(values: tuple[Any, ...]) -> Row:
    number, key, parent_id, parent, kind, labels, created, updated, inodes, size, rank, unsynced = values
    usage = None if inodes is None else Usage(inodes, size)
    return Row(
        *(number, key, parent_id, parent or "", SnapshotKind(kind), json.loads(labels)),
        *(created, updated, usage, rank, unsynced),
    )


class SnapshotDatabase:
    """Blocking; one connection that threads take turns at. Every change is durable when its call returns.

    Every call may raise, beside what it says: ResourceExhausted (the disk is full), Unavailable (it does
    not work now), DataLoss (the database is damaged).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._explained():
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._prepare()

    def _prepare(self) -> None:
        path = self._path
        pragmas = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "temp_store = MEMORY")
        for pragma in pragmas:
            self._connection.execute(f"PRAGMA {pragma}")
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version > _VERSION:
            raise FailedPrecondition(
                f"{str(path)!r} has schema {version}, this program knows {_VERSION}",
                hint="a newer version wrote it; use that one",
            )
        if version < _VERSION:
            steps = "".join(_UPGRADES[version:])
            self._connection.executescript(f"BEGIN; {steps} PRAGMA user_version = {_VERSION}; COMMIT;")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise _error(self._path, error) from error

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._explained(), self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _all(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._explained(), self._lock:
            return self._connection.execute(sql, values).fetchall()

    def last_id(self) -> int:
        """The highest id ever given out."""
        rows = self._all("SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'")
        return int(rows[0][0]) if rows else 0

    def ids(self) -> set[int]:
        """All ids in use."""
        return {each for (each,) in self._all("SELECT id FROM snapshots")}

    def get(self, key: str) -> Row:
        """:raises NotFound: no such snapshot"""
        rows = self._all(_ROWS + "WHERE s.key = ?", key)
        if not rows:
            raise NotFound(f"snapshot {key!r} does not exist", resource=f"snapshot {key}")
        return _row(rows[0])

    def page(self, after: int) -> list[Row]:
        """Some rows with ranks above ``after``, by rank: a parent's is always below its children's."""
        found = self._all(_ROWS + "WHERE s.rank > ? ORDER BY s.rank LIMIT ?", after, _PAGE)
        return [_row(values) for values in found]

    def chain(self, id: int | None) -> list[int]:
        """``id``, its parent, its parent's parent, …"""
        return [each for (each,) in self._all(_CHAIN, id)] if id else []

    def check_free(self, key: str) -> None:
        """:raises AlreadyExists: ``key`` names a snapshot"""
        if self._all("SELECT 1 FROM snapshots WHERE key = ?", key):
            raise _taken(key)

    def insert(
        self,
        id: int,
        key: str,
        kind: SnapshotKind,
        parent: int | None,
        labels: Labels,
        unsynced: str | None = None,
    ) -> None:
        """
        :param unsynced: its mark, where its folder may not be on the disk yet
        :raises AlreadyExists: ``key`` was taken meanwhile"""
        now = _now()
        values = (id, key, parent, kind.value, _labels(labels), now, now, unsynced)
        try:
            with self._transaction() as change:
                change.execute(
                    "INSERT INTO snapshots (id, key, parent, kind, labels, created, updated, unsynced, rank)"
                    f" VALUES (?, ?, ?, ?, ?, ?, ?, ?, {_NEXT_RANK})",
                    values,
                )
        except sqlite3.IntegrityError as error:
            raise _taken(key) from error

    def set_labels(self, key: str, labels: Labels) -> Row:
        """:raises NotFound: no such snapshot"""
        with self._transaction() as change:
            change.execute(
                "UPDATE snapshots SET labels = ?, updated = ? WHERE key = ?", (_labels(labels), _now(), key)
            )
        return self.get(key)

    def unsynced(self, mark: str) -> list[int]:
        """The ids of those with this mark."""
        return [each for (each,) in self._all("SELECT id FROM snapshots WHERE unsynced = ?", mark)]

    def unsynced_but(self, mark: str) -> list[str]:
        """The keys of those with another mark, and of all that was made on them; children first."""
        return [each for (each,) in self._all(_LOST, mark)]

    def unmeasured(self) -> list[Row]:
        """Committed ones whose usage nobody knows yet."""
        found = self._all(_ROWS + "WHERE s.inodes IS NULL AND s.kind = 'committed'")
        return [_row(values) for values in found]

    def set_usage(self, id: int, usage: Usage) -> None:
        """Note what a committed one takes."""
        with self._transaction() as change:
            change.execute(
                "UPDATE snapshots SET inodes = ?, size = ? WHERE id = ?", (usage.inodes, usage.size, id)
            )

    def begun_before(self, mark: str) -> list[int]:
        """The ids of those with another mark that are not committed."""
        found = self._all(
            "SELECT id FROM snapshots WHERE unsynced IS NOT NULL AND unsynced <> ? AND kind <> 'committed'",
            mark,
        )
        return [each for (each,) in found]

    def marks(self, id: int | None) -> set[str]:
        """The marks of ``id`` and of what is below it."""
        return {each for (each,) in self._all(_MARKS, id)} if id else set()

    def set_unsynced(self, ids: Sequence[int], mark: str | None) -> None:
        """Mark snapshots, or take the mark away."""
        with self._transaction() as change:
            change.executemany(
                "UPDATE snapshots SET unsynced = ? WHERE id = ?", [(mark, each) for each in ids]
            )

    def commit(
        self,
        row: Row,
        name: str,
        labels: Labels,
        usage: Usage | None,
        parent: int | None,
        unsynced: str | None = None,
    ) -> None:
        """
        :param parent: the new parent, where it gets one
        :param unsynced: its mark, where its files may not be on the disk yet
        :raises AlreadyExists: ``name`` is taken
        :raises NotFound: the active snapshot is gone"""
        now = _now()
        moved = "" if parent is None else f", parent = ?, rank = {_NEXT_RANK}"
        try:
            with self._transaction() as change:
                done = change.execute(
                    "UPDATE snapshots SET key = ?, kind = ?, labels = ?, created = ?, updated = ?,"
                    f" inodes = ?, size = ?, unsynced = ?{moved} WHERE id = ? AND key = ? AND kind = ?",
                    (
                        *(name, SnapshotKind.COMMITTED.value, _labels(labels), now, now),
                        *((usage.inodes, usage.size) if usage else (None, None)),
                        *(unsynced, *(() if parent is None else (parent,))),
                        *(row.id, row.key, SnapshotKind.ACTIVE.value),
                    ),
                )
        except sqlite3.IntegrityError as error:
            raise _taken(name) from error
        if done.rowcount != 1:
            raise NotFound(f"snapshot {row.key!r} does not exist", resource=f"snapshot {row.key}")

    def delete(self, row: Row) -> None:
        """:raises FailedPrecondition: it has children
        :raises NotFound: it is gone"""
        with self._transaction() as change:
            child = change.execute("SELECT key FROM snapshots WHERE parent = ? LIMIT 1", (row.id,)).fetchone()
            if child:
                raise FailedPrecondition(
                    f"cannot remove snapshot {row.key!r} with child {child[0]!r}",
                    reason="HAS_CHILDREN",
                    resource=f"snapshot {row.key}",
                    hint="remove the child first",
                )
            done = change.execute("DELETE FROM snapshots WHERE id = ? AND key = ?", (row.id, row.key))
        if done.rowcount != 1:
            raise NotFound(f"snapshot {row.key!r} does not exist", resource=f"snapshot {row.key}")


def _error(path: Path, error: sqlite3.Error) -> OrlopError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and disk_is_full(path)):
        return disk_full(f"cannot write {str(path)!r}")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return DataLoss(
            f"{str(path)!r} is damaged: {error}",
            reason="DATABASE_DAMAGED",
            hint=f"restore {path} from a backup, or move {path.parent} away to begin without snapshots",
        )
    if code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY}:
        return Unavailable(f"{str(path)!r} cannot be used now: {error}")
    return Internal(f"{str(path)!r}: {error}")


def _taken(key: str) -> AlreadyExists:
    return AlreadyExists(f"snapshot {key!r} already exists", resource=f"snapshot {key}")


def _labels(labels: Labels) -> str:
    return json.dumps(dict(labels), sort_keys=True)
