"""The metadata half of a collection: one transaction that removes every object no root reaches.

All of it is done by SQLite, in statements about sets: there may be very many objects, which are not to
become objects in Python, and other threads go on meanwhile.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orlopd.plugin.values import now

from . import graph, removals
from .db import Connection, to_micros


@dataclass(frozen=True, slots=True)
class Swept:
    """What the sweep removed, and when the next thing expires (microseconds since 1970)."""

    counts: Counter[str]
    images: Sequence[tuple[str, ...]]
    """Namespace and name."""
    snapshots: Sequence[tuple[str, ...]]
    """Namespace, snapshotter and key."""
    next_expiry: int | None


_SNAPSHOT = "snapshotter || '/' || key"
_KINDS = (
    (graph.LEASE, "leases", "id"),
    (graph.SNAPSHOT, "snapshots", _SNAPSHOT),
    (graph.INGEST, "ingests", "ref"),
    (graph.CONTENT, "contents", "digest"),
    (graph.IMAGE, "images", "name"),
)
"""Letter, table, and what of a row is the key of its node."""

# What is still noted for its data is named by the kind of its store.
_DISCARDED = (
    ("snapshots", "'snapshot/' || snapshotter", "backend_key", "0", _SNAPSHOT),
    ("ingests", f"'{graph.INGEST_STORE}'", "backend_ref", "0", "ref"),
    ("ingests", f"'{graph.CONTENT_STORE}'", "expected", "0", "ref"),
    ("contents", f"'{graph.CONTENT_STORE}'", "digest", "size", "digest"),
)
"""Table, store, item, size, and the key of the node."""


def sweep(conn: Connection, aliases: Mapping[str, str]) -> Swept:
    """Mark and sweep, within one change.

    :param aliases: further names of snapshotters, which labels may use
    """
    at = to_micros(now())
    mark(conn, aliases, at)
    counts = Counter[str]()
    for kind, table, _ in _KINDS:
        ((count,),) = conn.execute("SELECT count(*) FROM temp.going WHERE kind = ?", (kind,))
        if count:
            counts[table] = count
    images = conn.execute(
        "SELECT namespace, key FROM temp.going WHERE kind = ? ORDER BY namespace, key", (graph.IMAGE,)
    ).fetchall()
    snapshots = conn.execute(
        f"SELECT namespace, snapshotter, key FROM snapshots WHERE (namespace, {_SNAPSHOT}) IN "
        "(SELECT namespace, key FROM temp.going WHERE kind = ?)",
        (graph.SNAPSHOT,),
    ).fetchall()
    if counts:
        _remove(conn, counts, at)
    (next_expiry,) = conn.execute("SELECT min(expires_at) FROM roots WHERE expires_at >= ?", (at,)).fetchone()
    return Swept(counts, images, snapshots, next_expiry)


def mark(conn: Connection, aliases: Mapping[str, str], at: int) -> None:
    """Fill ``temp.going`` with what no root reaches at a time in microseconds since 1970."""
    conn.execute(
        "CREATE TEMP TABLE IF NOT EXISTS marked "
        "(namespace TEXT, node TEXT, PRIMARY KEY (namespace, node)) WITHOUT ROWID"
    )
    conn.execute(
        "CREATE TEMP TABLE IF NOT EXISTS going (kind TEXT, namespace TEXT, key TEXT, size INTEGER, "
        "PRIMARY KEY (kind, namespace, key)) WITHOUT ROWID"
    )
    conn.execute("DELETE FROM temp.marked")
    conn.execute("DELETE FROM temp.going")
    conn.execute(graph.MARK, {"now": at, "aliases": json.dumps(dict(aliases))})
    for kind, table, key in _KINDS:
        size = "size" if kind == graph.CONTENT else "0"
        conn.execute(
            f"INSERT INTO temp.going SELECT '{kind}', namespace, {key}, {size} FROM {table} o "
            "WHERE NOT EXISTS (SELECT 1 FROM temp.marked m "
            f"WHERE m.namespace = o.namespace AND m.node = '{kind}:' || {key})"
        )
    conn.execute("DELETE FROM temp.marked")


def sizes(conn: Connection, namespace: str) -> dict[str, int]:
    """The bytes of the blobs of a namespace that the last sweep of this change removed, by digest."""
    return dict(
        conn.execute(
            "SELECT key, size FROM temp.going WHERE kind = ? AND namespace = ?", (graph.CONTENT, namespace)
        )
    )


def _remove(conn: Connection, counts: Mapping[str, int], at: int) -> None:
    going = "(SELECT namespace, key FROM temp.going WHERE kind = ?)"
    for table, store, item, size, key in _DISCARDED:
        if table in counts:
            kind = next(kind for kind, name, _ in _KINDS if name == table)
            # Replaced, not ignored: see graph.discard.
            conn.execute(
                f"INSERT OR REPLACE INTO garbage (store, item, size) SELECT {store}, {item}, {size} "
                f"FROM {table} WHERE (namespace, {key}) IN {going} AND {item} <> ''",
                (kind,),
            )
    with removals.collecting(conn, at):
        for kind, table, key in _KINDS:
            if table in counts:
                conn.execute(f"DELETE FROM {table} WHERE (namespace, {key}) IN {going}", (kind,))
        for table, column in (("edges", "owner"), ("roots", "node")):
            conn.execute(
                f"DELETE FROM {table} WHERE (namespace, {column}) IN "
                "(SELECT namespace, kind || ':' || key FROM temp.going)"
            )
