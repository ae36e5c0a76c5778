"""The rows of blobs: what a namespace knows of its content."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from orlopd.plugin.errors import NotFound
from orlopd.plugin.values import NO_LABELS, BlobInfo, Labels, now

from . import graph
from .db import Connection, dump_labels, from_micros, insert, load_labels, to_micros
from .filters import Adaptor, FieldPath, in_map

COLUMNS = "digest, size, labels, created_at, updated_at"


@dataclass(frozen=True, slots=True)
class ContentInfo:
    """A blob as a namespace knows it. ``size`` is in bytes."""

    digest: str
    size: int = 0
    labels: Labels = field(default_factory=lambda: NO_LABELS)
    created_at: datetime = field(default_factory=now)
    updated_at: datetime = field(default_factory=now)


def from_row(row: tuple[Any, ...]) -> ContentInfo:
    """What a row of :data:`COLUMNS` says."""
    digest, size, labels, created, updated = row
    return ContentInfo(digest, size, load_labels(labels), from_micros(created), from_micros(updated))


def exists(conn: Connection, namespace: str, digest: str) -> bool:
    """Whether a namespace has a blob."""
    row = conn.execute(
        "SELECT 1 FROM contents WHERE namespace = ? AND digest = ?", (namespace, digest)
    ).fetchone()
    return row is not None


def get(conn: Connection, namespace: str, digest: str) -> ContentInfo:
    """A namespace's blob. :raises NotFound: it has no such blob"""
    row = conn.execute(
        f"SELECT {COLUMNS} FROM contents WHERE namespace = ? AND digest = ?", (namespace, digest)
    ).fetchone()
    if row is None:
        raise NotFound(f"content digest {digest}: not found", resource=f"content {digest}")
    return from_row(row)


def add(conn: Connection, namespace: str, digest: str, size: int, labels: Labels) -> BlobInfo:
    """Give a namespace a blob that it does not have yet."""
    at = now()
    insert(
        conn,
        "contents",
        {
            "namespace": namespace,
            "digest": digest,
            "size": size,
            "labels": dump_labels(labels),
            "created_at": to_micros(at),
            "updated_at": to_micros(at),
        },
    )
    _put_graph(conn, namespace, digest, labels)
    return BlobInfo(digest, size, at, at)


def set_labels(conn: Connection, namespace: str, info: ContentInfo) -> None:
    """Replace a blob's labels and the time of its last change."""
    conn.execute(
        "UPDATE contents SET labels = ?, updated_at = ? WHERE namespace = ? AND digest = ?",
        (dump_labels(info.labels), to_micros(info.updated_at), namespace, info.digest),
    )
    _put_graph(conn, namespace, info.digest, info.labels)


def remove(conn: Connection, namespace: str, digest: str) -> None:
    """Take a blob from a namespace. :raises NotFound: it has no such blob"""
    size = get(conn, namespace, digest).size
    conn.execute("DELETE FROM contents WHERE namespace = ? AND digest = ?", (namespace, digest))
    graph.drop(conn, namespace, graph.node(graph.CONTENT, digest))
    graph.discard(conn, graph.CONTENT_STORE, digest, size)


def adapt(info: ContentInfo) -> Adaptor:
    """A blob as filters see it."""

    def get_field(path: FieldPath) -> str | None:
        match path:
            case ("digest", *_):
                return info.digest
            case ("labels", *key):
                return in_map(tuple(key), info.labels)
            case _:
                return None

    return get_field


def _put_graph(conn: Connection, namespace: str, digest: str, labels: Labels) -> None:
    owner = graph.node(graph.CONTENT, digest)
    edges = graph.label_edges(owner, labels)
    graph.put(conn, namespace, owner, edges, root=graph.is_root(labels))
