"""Namespaces: the rooms that every object lives in, unseen from one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from orlopd.plugin.errors import AlreadyExists, FailedPrecondition, NotFound
from orlopd.plugin.values import NO_LABELS, Labels

from . import graph
from .db import Connection, Database, dump_labels, load_labels, readable
from .events import EventBus
from .gc import Collector
from .identifiers import check_labels, check_namespace, quoted
from .masks import select
from .scope import Scope

SHAREABLE_LABEL = "containerd.io/namespace.shareable"
"""On a namespace, "true" lets others have its content without sending it again."""

DEFAULT_SNAPSHOTTER_LABEL = "containerd.io/defaults/snapshotter"
DEFAULT_RUNTIME_LABEL = "containerd.io/defaults/runtime"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace and its labels."""

    name: str
    labels: Labels = field(default_factory=lambda: NO_LABELS)


def ensure(conn: Connection, namespace: str) -> None:
    """Make a namespace if it is not there: the first object in it brings it about, as in containerd."""
    conn.execute("INSERT OR IGNORE INTO namespaces (name) VALUES (?)", (namespace,))


class Namespaces:
    """Makes, labels and removes namespaces. None needs to be made before it is used."""

    def __init__(self, db: Database, events: EventBus, gc: Collector) -> None:
        self._db = db
        self._events = events
        self._gc = gc

    async def create(self, scope: Scope, name: str, labels: Labels = NO_LABELS) -> Namespace:
        """Make a namespace. ``scope`` is the caller's, to whose namespace the event belongs.

        :raises AlreadyExists: it is there, be it that an object in it made it
        :raises InvalidArgument: the name or a label is malformed
        """
        check_namespace(name)
        check_labels(labels, "namespace.Labels")

        def change(conn: Connection) -> None:
            if _labels(conn, name) is not None:
                raise AlreadyExists(f"namespace {quoted(name)}: already exists", resource=f"namespace {name}")
            conn.execute("INSERT INTO namespaces (name, labels) VALUES (?, ?)", (name, dump_labels(labels)))

        await self._db.write(change)
        await self._emit(scope, "create", "Create", name, labels)
        return Namespace(name, labels)

    async def get(self, name: str) -> Namespace:
        """A namespace. One that is not there has no labels; that is no error, as in containerd."""
        return Namespace(name, await self._db.read(lambda conn: _labels(conn, name)) or NO_LABELS)

    async def list(self) -> Sequence[Namespace]:
        """All namespaces by name."""
        rows = await self._db.read(
            lambda conn: conn.execute("SELECT name, labels FROM namespaces ORDER BY name").fetchall()
        )
        return list(readable(lambda row: Namespace(row[0], load_labels(row[1])), rows))

    async def update(self, scope: Scope, name: str, labels: Labels, paths: Sequence[str] = ()) -> Namespace:
        """Replace all labels, or those that ``paths`` name as ``labels.KEY``. Made if it is not there.

        :raises InvalidArgument: a path, the name or a label is malformed
        """
        check_namespace(name)
        check_labels(labels, "namespace.Labels")

        def change(conn: Connection) -> Labels:
            ensure(conn, name)
            current = {"labels": _labels(conn, name) or NO_LABELS}
            changed = select(f"namespace {quoted(name)}", paths or ("labels",), current, {"labels": labels})[
                "labels"
            ]
            text = dump_labels(changed)
            conn.execute("UPDATE namespaces SET labels = ? WHERE name = ?", (text, name))
            return load_labels(text)

        changed = await self._db.write(change)
        await self._emit(scope, "update", "Update", name, labels)
        return Namespace(name, changed)

    async def delete(self, name: str) -> None:
        """Remove a namespace that holds no image, content, container or snapshot.

        Its last event is its own, as with containerd; those before belong to the caller's namespace.

        :raises NotFound: it is not there
        :raises FailedPrecondition: it still holds something; the message says what
        """

        def change(conn: Connection) -> None:
            if _labels(conn, name) is None:
                raise NotFound(f"namespace {quoted(name)}: not found", resource=f"namespace {name}")
            if kept := ", ".join(_holds(conn, name)):
                raise FailedPrecondition(
                    f"namespace {quoted(name)} must be empty, but it still has {kept}: failed precondition",
                    reason="NAMESPACE_NOT_EMPTY",
                    resource=f"namespace {name}",
                    hint=f"remove its {kept} first",
                )
            for ref, expected in conn.execute(
                "SELECT backend_ref, expected FROM ingests WHERE namespace = ?", (name,)
            ).fetchall():
                graph.discard(conn, graph.INGEST_STORE, ref)
                if expected:
                    graph.discard(conn, graph.CONTENT_STORE, expected)
            conn.execute("DELETE FROM namespaces WHERE name = ?", (name,))

        await self._db.write(change)
        self._gc.schedule()
        await self._emit(Scope(name), "delete", "Delete", name, None)

    async def _emit(self, scope: Scope, verb: str, message: str, name: str, labels: Labels | None) -> None:
        fields = {"name": name} if labels is None else {"name": name, "labels": labels}
        await self._events.emit(scope, f"/namespaces/{verb}", f"containerd.events.Namespace{message}", fields)


def _labels(conn: Connection, name: str) -> Labels | None:
    row = conn.execute("SELECT labels FROM namespaces WHERE name = ?", (name,)).fetchone()
    return None if row is None else load_labels(row[0])


def _holds(conn: Connection, name: str) -> list[str]:
    found = [
        what
        for what, table in (("images", "images"), ("blobs", "contents"), ("containers", "containers"))
        if conn.execute(f"SELECT 1 FROM {table} WHERE namespace = ? LIMIT 1", (name,)).fetchone()
    ]
    rows = conn.execute("SELECT DISTINCT snapshotter FROM snapshots WHERE namespace = ? ORDER BY 1", (name,))
    return found + [f'snapshots on "{snapshotter}" snapshotter' for (snapshotter,) in rows]
