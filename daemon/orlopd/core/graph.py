"""The reference graph that garbage collection walks, kept up to date by every change of an object.

A node is text: the letter of its kind, a colon, its key. Capital letters are the same objects seen by a
flat lease: of them only what is part of them is kept (a snapshot's parents, an image's target), not what
their labels point at. An object that is replaced or removed replaces or removes its root and the
edges it owns. An edge's owner is its source, or, for a back reference, its target.

Labels: https://github.com/containerd/containerd/blob/main/docs/garbage-collection.md
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from orlopd.plugin.values import Labels

from .db import Connection, from_micros, to_micros

CONTENT, SNAPSHOT, IMAGE, INGEST, CONTAINER, LEASE, SANDBOX = "c", "s", "i", "g", "k", "l", "b"
FLAT = {CONTENT: "C", SNAPSHOT: "S", IMAGE: "I", INGEST: INGEST}

ROOT_LABEL = "containerd.io/gc.root"
"""A label that begins like this makes content and snapshots roots, whatever its value."""
EXPIRE_LABEL = "containerd.io/gc.expire"
FLAT_LABEL = "containerd.io/gc.flat"
REF_PREFIX = "containerd.io/gc.ref."
BACK_REF_PREFIX = "containerd.io/gc.bref."

Edge = tuple[str, str]
"""Source and target."""

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_PLAIN = {"content": CONTENT, "image": IMAGE, "container": CONTAINER}


def node(kind: str, key: str) -> str:
    """The node of an object."""
    return f"{kind}:{key}"


def snapshot_node(snapshotter: str, key: str, *, flat: bool = False) -> str:
    """The node of a snapshot."""
    return f"{FLAT[SNAPSHOT] if flat else SNAPSHOT}:{snapshotter}/{key}"


def expiry(labels: Labels) -> datetime | None:
    """When ``containerd.io/gc.expire`` says that an object may go; None for never.

    A value that is no RFC 3339 time counts as absent: better to keep too much.
    """
    text = labels.get(EXPIRE_LABEL, "")
    if not _RFC3339.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def is_root(labels: Labels) -> bool:
    """Whether labels keep a blob or a snapshot for its own sake."""
    return any(value and key.startswith(ROOT_LABEL) for key, value in labels.items())


def label_edges(owner: str, labels: Labels) -> Iterator[Edge]:
    """The edges that an object's labels make: ``gc.ref.*`` from it, ``gc.bref.*`` to it."""
    for key, value in labels.items():
        if key.startswith(REF_PREFIX):
            if (target := _target(key[len(REF_PREFIX) :], value, back=False)) is not None:
                yield owner, target
        elif key.startswith(BACK_REF_PREFIX) and (
            (source := _target(key[len(BACK_REF_PREFIX) :], value, back=True)) is not None
        ):
            yield source, owner


def _target(kind: str, value: str, *, back: bool) -> str | None:
    if kind.startswith("snapshot."):
        snapshotter = kind[len("snapshot.") :].partition("/")[0]
        return snapshot_node(snapshotter, value)
    # What follows the kind only tells several references apart: gc.ref.content.l.0, gc.ref.content/config.
    word = re.split(r"[./]", kind, maxsplit=1)[0]
    if word == "container" and not back:
        return None
    letter = _PLAIN.get(word)
    return None if letter is None else node(letter, value)


def put(
    conn: Connection,
    namespace: str,
    owner: str,
    edges: Iterable[Edge] = (),
    *,
    root: bool = False,
    expires: datetime | None = None,
) -> None:
    """Replace what ``owner`` adds to the graph.

    :param root: whether it is kept for its own sake, until ``expires`` where given
    """
    drop(conn, namespace, owner)
    conn.executemany(
        "INSERT OR IGNORE INTO edges (namespace, source, target, owner) VALUES (?, ?, ?, ?)",
        [(namespace, source, target, owner) for source, target in edges],
    )
    if root:
        conn.execute(
            "INSERT INTO roots (namespace, node, expires_at) VALUES (?, ?, ?)",
            (namespace, owner, None if expires is None else to_micros(expires)),
        )


def root_expiry(conn: Connection, namespace: str, owner: str) -> datetime | None:
    """When a root expires; None if it does not, or is none."""
    row = conn.execute(
        "SELECT expires_at FROM roots WHERE namespace = ? AND node = ?", (namespace, owner)
    ).fetchone()
    return None if row is None or row[0] is None else from_micros(row[0])


def drop(conn: Connection, namespace: str, owner: str) -> None:
    """Remove what ``owner`` added to the graph."""
    drop_all(conn, [(namespace, owner)])


def drop_all(conn: Connection, owners: Sequence[tuple[str, str]]) -> None:
    """Remove what each of ``owners``, by namespace and node, added to the graph."""
    conn.executemany("DELETE FROM edges WHERE namespace = ? AND owner = ?", owners)
    conn.executemany("DELETE FROM roots WHERE namespace = ? AND node = ?", owners)


def discard(conn: Connection, store: str, item: str, size: int = 0) -> None:
    """Note that a store's item of ``size`` bytes has lost its metadata; the collector deletes it."""
    discard_all(conn, [(store, item, size)])


def discard_all(conn: Connection, items: Iterable[tuple[str, str, int]]) -> None:
    """As :func:`discard`, for many."""
    # Replaced, not ignored: the new row outlives a collection that is about to strike off the old one.
    conn.executemany("INSERT OR REPLACE INTO garbage (store, item, size) VALUES (?, ?, ?)", items)


CONTENT_STORE = "content"
INGEST_STORE = "ingest"


def snapshot_store(snapshotter: str) -> str:
    """The name of a snapshotter among the stores of :func:`discard`."""
    return f"snapshot/{snapshotter}"


# One statement, so that the walk runs outside Python and does not hold up the event loop. The last part turns
# the alias of a snapshotter into its name.
MARK = """
INSERT OR IGNORE INTO temp.marked (namespace, node)
WITH RECURSIVE reached (namespace, node) AS (
    SELECT namespace, node FROM roots WHERE expires_at IS NULL OR expires_at >= :now
    UNION
    SELECT e.namespace, e.target
    FROM reached r JOIN edges e ON e.namespace = r.namespace AND e.source = r.node
    UNION
    SELECT r.namespace, substr(r.node, 1, 2) || a.value || substr(r.node, 3 + length(a.key))
    FROM reached r JOIN json_each(:aliases) a
    WHERE substr(r.node, 1, 2) IN ('s:', 'S:') AND substr(r.node, 3, length(a.key) + 1) = a.key || '/'
)
SELECT namespace, lower(substr(node, 1, 1)) || substr(node, 2) FROM reached
"""
