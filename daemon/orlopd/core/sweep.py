"""The metadata half of a collection: one transaction that removes every object no root reaches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    contents: Sequence[tuple[Any, ...]]
    """Namespace, digest and size."""
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
    ingests = _unmarked(conn, "ingests", "ref, backend_ref, expected", "'g:' || ref")
    contents = _unmarked(conn, "contents", "digest, size", "'c:' || digest")
    images = _unmarked(conn, "images", "name", "'i:' || name")
    conn.execute("DELETE FROM temp.marked")

    nodes = [(row[0], graph.snapshot_node(row[1], row[2])) for row in snapshots]
    for kind, rows in (
        (graph.LEASE, leases),
        (graph.INGEST, ingests),
        (graph.CONTENT, contents),
        (graph.IMAGE, images),
    ):
        nodes += [(row[0], graph.node(kind, row[1])) for row in rows]
    with removals.collecting(conn, nodes, at):
        _delete(conn, "leases", ("id",), leases)
        _delete(conn, "snapshots", ("snapshotter", "key"), snapshots)
        _delete(conn, "ingests", ("ref",), ingests)
        _delete(conn, "contents", ("digest",), contents)
        _delete(conn, "images", ("name",), images)
        graph.drop_all(conn, nodes)
    graph.discard_all(conn, [(graph.snapshot_store(row[1]), row[3], 0) for row in snapshots])
    graph.discard_all(conn, [(graph.INGEST_STORE, row[2], 0) for row in ingests])
    graph.discard_all(conn, [(graph.CONTENT_STORE, row[3], 0) for row in ingests if row[3]])
    graph.discard_all(conn, [(graph.CONTENT_STORE, row[1], row[2]) for row in contents])

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
        contents,
        next_expiry,
    )


def _unmarked(conn: Connection, table: str, columns: str, node: str) -> list[tuple[Any, ...]]:
    return conn.execute(
        f"SELECT namespace, {columns} FROM {table} o WHERE NOT EXISTS "
        f"(SELECT 1 FROM temp.marked m WHERE m.namespace = o.namespace AND m.node = {node})"
    ).fetchall()


def _delete(conn: Connection, table: str, key: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    where = " AND ".join(f"{name} = ?" for name in ("namespace", *key))
    conn.executemany(f"DELETE FROM {table} WHERE {where}", [row[: len(key) + 1] for row in rows])
