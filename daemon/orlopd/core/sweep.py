"""The metadata half of a collection: one transaction that removes every object no root reaches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orlopd.plugin.values import now

from . import graph
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


def sweep(conn: Connection, aliases: Mapping[str, str]) -> Swept:
    """Mark and sweep, within one change.

    :param aliases: further names of snapshotters, which labels may use
    """
    at = to_micros(now())
    conn.execute(
        "CREATE TEMP TABLE IF NOT EXISTS marked "
        "(namespace TEXT, node TEXT, PRIMARY KEY (namespace, node)) WITHOUT ROWID"
    )
    conn.execute("DELETE FROM temp.marked")
    conn.execute(graph.MARK, {"now": at, "aliases": json.dumps(dict(aliases))})

    leases = _unmarked(conn, "leases", "id", "'l:' || id")
    snapshots = _unmarked(
        conn, "snapshots", "snapshotter, key, backend_key", "'s:' || snapshotter || '/' || key"
    )
    ingests = _unmarked(conn, "ingests", "ref, backend_ref", "'g:' || ref")
    contents = _unmarked(conn, "contents", "digest", "'c:' || digest")
    images = _unmarked(conn, "images", "name", "'i:' || name")
    conn.execute("DELETE FROM temp.marked")

    conn.executemany("DELETE FROM leases WHERE namespace = ? AND id = ?", leases)
    conn.executemany(
        "DELETE FROM snapshots WHERE namespace = ? AND snapshotter = ? AND key = ?",
        [row[:3] for row in snapshots],
    )
    conn.executemany("DELETE FROM ingests WHERE namespace = ? AND ref = ?", [row[:2] for row in ingests])
    conn.executemany("DELETE FROM contents WHERE namespace = ? AND digest = ?", contents)
    conn.executemany("DELETE FROM images WHERE namespace = ? AND name = ?", images)

    for namespace, lease in leases:
        graph.drop(conn, namespace, graph.node(graph.LEASE, lease))
    for namespace, snapshotter, key, backend_key in snapshots:
        graph.drop(conn, namespace, graph.snapshot_node(snapshotter, key))
        graph.discard(conn, graph.snapshot_store(snapshotter), backend_key)
    for namespace, ref, backend_ref in ingests:
        graph.drop(conn, namespace, graph.node(graph.INGEST, ref))
        graph.discard(conn, graph.INGEST_STORE, backend_ref)
    for namespace, digest in contents:
        graph.drop(conn, namespace, graph.node(graph.CONTENT, digest))
        graph.discard(conn, graph.CONTENT_STORE, digest)
    for namespace, name in images:
        graph.drop(conn, namespace, graph.node(graph.IMAGE, name))

    counts = {
        "leases": leases,
        "snapshots": snapshots,
        "ingests": ingests,
        "contents": contents,
        "images": images,
    }
    (next_expiry,) = conn.execute("SELECT min(expires_at) FROM roots WHERE expires_at >= ?", (at,)).fetchone()
    return Swept(
        Counter({kind: len(rows) for kind, rows in counts.items() if rows}),
        images,
        [row[:3] for row in snapshots],
        next_expiry,
    )


def _unmarked(conn: Connection, table: str, columns: str, node: str) -> list[tuple[str, ...]]:
    return conn.execute(
        f"SELECT namespace, {columns} FROM {table} o WHERE NOT EXISTS "
        f"(SELECT 1 FROM temp.marked m WHERE m.namespace = o.namespace AND m.node = {node})"
    ).fetchall()
