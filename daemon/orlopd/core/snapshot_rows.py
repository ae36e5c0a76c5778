"""The rows of snapshots, and of commits that have begun."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from orlopd.plugin.errors import NotFound
from orlopd.plugin.values import Labels, SnapshotInfo, SnapshotKind, now

from . import graph
from .db import Connection, dump_labels, from_micros, insert, load_labels, readable, to_micros
from .filters import Adaptor, FieldPath, in_map

_COLUMNS = "namespace, snapshotter, key, backend_key, kind, parent, labels, created_at, updated_at"
_THIS = "namespace = ? AND snapshotter = ? AND key = ?"


@dataclass(frozen=True, slots=True)
class Row:
    """A snapshot as the metadata knows it."""

    namespace: str
    snapshotter: str
    key: str
    backend_key: str
    kind: SnapshotKind
    parent: str
    labels: Labels
    created_at: datetime = field(default_factory=now)
    updated_at: datetime = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that has begun: ``key`` is to become ``name``."""

    namespace: str
    snapshotter: str
    name: str
    key: str
    parent: str
    backend_name: str
    labels: Labels


def find(conn: Connection, namespace: str, snapshotter: str, key: str) -> Row | None:
    """A snapshot, or None."""
    row = conn.execute(
        f"SELECT {_COLUMNS} FROM snapshots WHERE {_THIS}", (namespace, snapshotter, key)
    ).fetchone()
    return None if row is None else _row(row)


def get(conn: Connection, namespace: str, snapshotter: str, key: str) -> Row:
    """A snapshot. :raises NotFound: there is none of this key"""
    row = find(conn, namespace, snapshotter, key)
    if row is None:
        raise not_found(key)
    return row


def page(conn: Connection, namespace: str, snapshotter: str, after: str, size: int) -> list[Row]:
    """The next snapshots by key."""
    found = conn.execute(
        f"SELECT {_COLUMNS} FROM snapshots WHERE namespace = ? AND snapshotter = ? AND key > ? ORDER BY key",
        (namespace, snapshotter, after),
    )
    return list(islice(readable(_row, found), size))


def add(conn: Connection, row: Row) -> None:
    """Record a snapshot."""
    insert(
        conn,
        "snapshots",
        {
            "namespace": row.namespace,
            "snapshotter": row.snapshotter,
            "key": row.key,
            "backend_key": row.backend_key,
            "kind": row.kind.value,
            "parent": row.parent,
            "labels": dump_labels(row.labels),
            "created_at": to_micros(row.created_at),
            "updated_at": to_micros(row.updated_at),
        },
    )
    _put_graph(conn, row)


def set_labels(conn: Connection, row: Row, labels: Labels, at: datetime) -> Row:
    """Replace a snapshot's labels."""
    changed = dataclasses.replace(row, labels=labels, updated_at=at)
    conn.execute(
        f"UPDATE snapshots SET labels = ?, updated_at = ? WHERE {_THIS}",
        (dump_labels(labels), to_micros(at), row.namespace, row.snapshotter, row.key),
    )
    _put_graph(conn, changed)
    return changed


def has_children(conn: Connection, row: Row) -> bool:
    """Whether another snapshot was made on this one."""
    found = conn.execute(
        "SELECT 1 FROM snapshots WHERE namespace = ? AND snapshotter = ? AND parent = ? LIMIT 1",
        (row.namespace, row.snapshotter, row.key),
    ).fetchone()
    return found is not None


def remove(conn: Connection, row: Row) -> None:
    """Forget a snapshot and note that its data is to go."""
    _delete(conn, row)
    graph.discard(conn, graph.snapshot_store(row.snapshotter), row.backend_key)


def forget(conn: Connection, snapshotter: str, backend_keys: Sequence[str]) -> None:
    """Forget what the backend has lost, in every namespace, and note that its rests are to go."""
    for key in backend_keys:
        found = conn.execute(
            f"SELECT {_COLUMNS} FROM snapshots WHERE snapshotter = ? AND backend_key = ?", (snapshotter, key)
        )
        for row in list(readable(_row, found)):
            _delete(conn, row)
        graph.discard(conn, graph.snapshot_store(snapshotter), key)


def _delete(conn: Connection, row: Row) -> None:
    conn.execute(f"DELETE FROM snapshots WHERE {_THIS}", (row.namespace, row.snapshotter, row.key))
    graph.drop(conn, row.namespace, graph.snapshot_node(row.snapshotter, row.key))


def begin_commit(
    conn: Connection, row: Row, name: str, parent: str, backend_name: str, labels: Labels
) -> None:
    """Note that a commit begins. ``parent`` is the one that the committed snapshot will have."""
    if parent != row.parent:
        # From now on the active one keeps it from being collected.
        _put_graph(conn, dataclasses.replace(row, parent=parent))
    insert(
        conn,
        "snapshot_commits",
        {
            "namespace": row.namespace,
            "snapshotter": row.snapshotter,
            "name": name,
            "key": row.key,
            "parent": parent,
            "backend_name": backend_name,
            "labels": dump_labels(labels),
        },
    )


def end_commit(conn: Connection, namespace: str, snapshotter: str, name: str) -> Commit | None:
    """Strike off the note of a commit, and return it; None where there is none."""
    row = conn.execute(
        "DELETE FROM snapshot_commits WHERE namespace = ? AND snapshotter = ? AND name = ? "
        "RETURNING namespace, snapshotter, name, key, parent, backend_name, labels",
        (namespace, snapshotter, name),
    ).fetchone()
    return None if row is None else _commit(row)


def undo_commit(conn: Connection, namespace: str, snapshotter: str, name: str) -> None:
    """Strike off the note of a commit that did not happen."""
    commit = end_commit(conn, namespace, snapshotter, name)
    active = None if commit is None else find(conn, namespace, snapshotter, commit.key)
    if active is not None:
        _put_graph(conn, active)


def commits(conn: Connection, snapshotter: str) -> list[Commit]:
    """All commits of a snapshotter that have begun."""
    found = conn.execute(
        "SELECT namespace, snapshotter, name, key, parent, backend_name, labels FROM snapshot_commits "
        "WHERE snapshotter = ?",
        (snapshotter,),
    )
    return list(readable(_commit, found))


def replace(conn: Connection, commit: Commit) -> None:
    """Put the committed snapshot in the place of the active one."""
    active = find(conn, commit.namespace, commit.snapshotter, commit.key)
    if active is not None:
        _delete(conn, active)
    add(
        conn,
        Row(
            commit.namespace,
            commit.snapshotter,
            commit.name,
            commit.backend_name,
            SnapshotKind.COMMITTED,
            commit.parent,
            commit.labels,
        ),
    )


def info(row: Row, found: SnapshotInfo | None = None) -> SnapshotInfo:
    """A snapshot as its namespace sees it; labels that the backend has of its own shine through."""
    labels = row.labels if found is None or not found.labels else {**found.labels, **row.labels}
    kind = row.kind if found is None else found.kind
    return SnapshotInfo(row.key, kind, row.parent, labels, row.created_at, row.updated_at)


def not_found(key: str) -> NotFound:
    """The error for a snapshot that is not there."""
    return NotFound(f"snapshot {key} does not exist: not found", resource=f"snapshot {key}")


def adapt(info: SnapshotInfo) -> Adaptor:
    """A snapshot as filters see it."""

    def get_field(path: FieldPath) -> str | None:
        match path:
            case ("kind", *_):
                return info.kind.value
            case ("name", *_):
                return info.name
            case ("parent", *_):
                return info.parent
            case ("labels", *key):
                return in_map(tuple(key), info.labels)
            case _:
                return None

    return get_field


def _row(row: tuple[Any, ...]) -> Row:
    namespace, snapshotter, key, backend_key, kind, parent, labels, created, updated = row
    return Row(
        namespace,
        snapshotter,
        key,
        backend_key,
        SnapshotKind(kind),
        parent,
        load_labels(labels),
        from_micros(created),
        from_micros(updated),
    )


def _commit(row: tuple[Any, ...]) -> Commit:
    namespace, snapshotter, name, key, parent, backend_name, labels = row
    return Commit(namespace, snapshotter, name, key, parent, backend_name, load_labels(labels))


def _put_graph(conn: Connection, row: Row) -> None:
    owner = graph.snapshot_node(row.snapshotter, row.key)
    edges = list(graph.label_edges(owner, row.labels))
    if row.parent:
        for flat in (False, True):
            source = graph.snapshot_node(row.snapshotter, row.key, flat=flat)
            edges.append((source, graph.snapshot_node(row.snapshotter, row.parent, flat=flat)))
    graph.put(conn, row.namespace, owner, edges, root=graph.is_root(row.labels))
