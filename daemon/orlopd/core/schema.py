"""The shape of the metadata database, and the way from every older shape to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from orlopd.plugin.errors import DataLoss, FailedPrecondition

APPLICATION_ID = 0x4F524C50
VERSION = 2

# The shape of version 1, before any of the migrations below; it does not change any more.
# Times are microseconds since 1970; labels are JSON, or empty for none. `nodes` of the reference graph are
# text, see graph.py. Rows of a namespace go with it.
_TABLES = """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('id', 0);

CREATE TABLE namespaces (name TEXT PRIMARY KEY, labels TEXT NOT NULL DEFAULT '') WITHOUT ROWID;

CREATE TABLE contents (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    labels TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, digest)
) WITHOUT ROWID;
CREATE INDEX contents_by_digest ON contents (digest);

CREATE TABLE ingests (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    ref TEXT NOT NULL,
    backend_ref TEXT NOT NULL UNIQUE,
    -- Set while no byte came and the blob is there for another namespace.
    expected TEXT NOT NULL DEFAULT '',
    started_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, ref)
) WITHOUT ROWID;
CREATE INDEX ingests_by_expected ON ingests (expected);

CREATE TABLE snapshots (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    snapshotter TEXT NOT NULL,
    key TEXT NOT NULL,
    backend_key TEXT NOT NULL,
    kind TEXT NOT NULL,
    parent TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, snapshotter, key)
) WITHOUT ROWID;
CREATE INDEX snapshots_by_parent ON snapshots (namespace, snapshotter, parent);
CREATE UNIQUE INDEX snapshots_by_backend_key ON snapshots (snapshotter, backend_key);

-- Commits that have begun: the backend may or may not have done its part when the daemon died.
CREATE TABLE snapshot_commits (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    snapshotter TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    parent TEXT NOT NULL,
    backend_name TEXT NOT NULL,
    labels TEXT NOT NULL,
    PRIMARY KEY (namespace, snapshotter, name)
) WITHOUT ROWID;

CREATE TABLE images (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    name TEXT NOT NULL,
    media_type TEXT NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    annotations TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) WITHOUT ROWID;

CREATE TABLE containers (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    id TEXT NOT NULL,
    image TEXT NOT NULL,
    runtime TEXT NOT NULL,
    runtime_options_type TEXT NOT NULL,
    runtime_options BLOB,
    spec_type TEXT NOT NULL,
    spec BLOB,
    snapshotter TEXT NOT NULL,
    snapshot_key TEXT NOT NULL,
    sandbox TEXT NOT NULL,
    extensions TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID;

CREATE TABLE leases (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    id TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID;

CREATE TABLE lease_resources (
    namespace TEXT NOT NULL,
    lease TEXT NOT NULL,
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (namespace, lease, type, id),
    FOREIGN KEY (namespace, lease) REFERENCES leases ON DELETE CASCADE
) WITHOUT ROWID;

-- The reference graph that garbage collection walks. Each object owns its root and its edges.
CREATE TABLE roots (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    node TEXT NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (namespace, node)
) WITHOUT ROWID;

CREATE TABLE edges (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    source TEXT NOT NULL,
    target TEXT NOT NULL,
    owner TEXT NOT NULL,
    PRIMARY KEY (namespace, source, target, owner)
) WITHOUT ROWID;
CREATE INDEX edges_by_owner ON edges (namespace, owner);
CREATE INDEX edges_by_target ON edges (namespace, target);

-- Data whose metadata is gone and that the stores still have to delete.
CREATE TABLE garbage (
    store TEXT NOT NULL,
    item TEXT NOT NULL,
    size INTEGER NOT NULL,
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    UNIQUE (store, item)
);
"""

# Some databases that call themselves version 1 have this already: the tables came before the number.
_REMOVALS = """
-- What went, for explanations: the latest of it, see removals.py.
CREATE TABLE IF NOT EXISTS removals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace TEXT NOT NULL,
    node TEXT NOT NULL,
    at INTEGER NOT NULL,
    how TEXT NOT NULL,
    cause TEXT NOT NULL,
    cause_how TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS removals_by_node ON removals (namespace, node);

-- References that went since the last collection, and what had them.
CREATE TABLE IF NOT EXISTS lost (
    namespace TEXT NOT NULL,
    target TEXT NOT NULL,
    source TEXT NOT NULL,
    PRIMARY KEY (namespace, target)
) WITHOUT ROWID;

-- Not 0 while a collection removes things, which keeps a record of its own.
INSERT OR IGNORE INTO counters VALUES ('collecting', 0);
"""

_RECORDED = {
    "contents": "'c:' || OLD.digest",
    "snapshots": "'s:' || OLD.snapshotter || '/' || OLD.key",
    "images": "'i:' || OLD.name",
    "containers": "'k:' || OLD.id",
    "leases": "'l:' || OLD.id",
}
"""What is recorded when it is deleted by name, and the node that it is."""

_UNLESS_COLLECTING = "WHEN (SELECT value FROM counters WHERE name = 'collecting') = 0"


def _plain(node: str) -> str:
    # As it is without the mark of a flat lease.
    return f"lower(substr({node}, 1, 1)) || substr({node}, 2)"


def _triggers() -> Iterator[str]:
    for table, node in _RECORDED.items():
        yield (
            f"CREATE TRIGGER IF NOT EXISTS {table}_removed AFTER DELETE ON {table} {_UNLESS_COLLECTING} "
            "BEGIN INSERT INTO removals (namespace, node, at, how, cause, cause_how) VALUES (OLD.namespace, "
            f"{node}, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER), 'deleted', '', ''); END"
        )
    yield (
        f"CREATE TRIGGER IF NOT EXISTS edges_removed AFTER DELETE ON edges {_UNLESS_COLLECTING} BEGIN "
        "INSERT OR REPLACE INTO lost (namespace, target, source) "
        f"VALUES (OLD.namespace, {_plain('OLD.target')}, {_plain('OLD.source')}); END"
    )
    # An object that changes has its references removed and made anew.
    yield (
        "CREATE TRIGGER IF NOT EXISTS edges_added AFTER INSERT ON edges BEGIN DELETE FROM lost "
        f"WHERE namespace = NEW.namespace AND target = {_plain('NEW.target')} "
        f"AND source = {_plain('NEW.source')}; END"
    )


def _run(conn: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            conn.execute(statement)


def _first(conn: sqlite3.Connection) -> None:
    _run(conn, _TABLES)


def _record_removals(conn: sqlite3.Connection) -> None:
    _run(conn, _REMOVALS)
    for statement in _triggers():
        conn.execute(statement)


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_first, _record_removals)
"""The n-th brings a database from version n to n + 1. Once released, one is never changed."""


def prepare(conn: sqlite3.Connection, path: Path) -> None:
    """Check the database, set how it is written, and migrate it to :data:`VERSION`.

    :raises FailedPrecondition: it is newer, or not ours
    :raises DataLoss: it is damaged
    """
    application = conn.execute("PRAGMA application_id").fetchone()[0]
    version = conn.execute("PRAGMA user_version").fetchone()[0]
    empty = not conn.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    if not empty and application != APPLICATION_ID:
        raise FailedPrecondition(
            f"{path} is not a metadata database of orlopd", hint="choose another folder with --root"
        )
    if version > VERSION:
        raise FailedPrecondition(
            f"the metadata database {path} has schema version {version}, this orlopd knows up to {VERSION}: "
            "run the newer orlopd that wrote it, or choose another folder with --root",
            reason="SCHEMA_TOO_NEW",
            hint="run the newer orlopd that wrote it, or choose another folder with --root",
        )
    result = conn.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != "ok":
        raise damaged(path, str(result))
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")
    for number, migrate in enumerate(MIGRATIONS[version:], version + 1):
        conn.execute("BEGIN IMMEDIATE")
        try:
            migrate(conn)
            conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            conn.execute(f"PRAGMA user_version = {number}")
            conn.execute("COMMIT")
        except BaseException:
            conn.execute("ROLLBACK")
            raise


def damaged(path: Path, why: str) -> DataLoss:
    """The error for a database that cannot be trusted any more."""
    return DataLoss(
        f"the metadata database {path} is damaged: {why}; nothing was changed: "
        "restore it from a backup, or move it away to begin empty",
        reason="DATABASE_DAMAGED",
        hint=f"restore {path} from a backup, or move it away to begin empty",
    )
