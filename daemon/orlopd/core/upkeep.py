"""What a namespace's objects take and why they are kept, and what a collection would remove."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from orlopd.plugin.errors import InvalidArgument, NotFound

from . import graph, removals, sweep
from .db import Connection, Database, from_micros
from .gc import Collector
from .removals import Removed
from .scope import Scope
from .snapshots import Snapshots
from .why import MOST_CHAINS, Explainer, describe, key_of, kind_of

MOST_NAMED = 10_000
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Kept:
    """An object, its bytes on disk, and what keeps it: nodes, the nearest first, ten at most."""

    node: str
    size: int
    created_at: datetime
    keepers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Going:
    """An object that is to go, the bytes that this frees, and why it is, for people."""

    node: str
    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What would go; of very many only some are named, and ``more`` are not."""

    objects: Sequence[Going] = ()
    more: int = 0

    def bytes_of(self, kind: str, snapshotter: str = "") -> int:
        """What the objects of a kind come to, of one snapshotter alone where one is given."""
        start = graph.node(kind, f"{snapshotter}/" if snapshotter else "")
        return sum(each.size for each in self.objects if each.node.startswith(start))


class Upkeep:
    """Looks through a namespace for whoever wants to clean it."""

    def __init__(self, db: Database, gc: Collector, snapshots: Snapshots, explainer: Explainer) -> None:
        self._db = db
        self._gc = gc
        self._snapshots = snapshots
        self._explainer = explainer

    async def preview(
        self, scope: Scope, *, containers: Collection[str] = (), images: Collection[str] = ()
    ) -> Preview:
        """What would go, were these removed and garbage collected then. Nothing is changed."""

        def look(conn: Connection, aliases: Mapping[str, str]) -> Preview:
            before = removals.last(conn)
            for table, key, kind, names in (
                ("containers", "id", graph.CONTAINER, containers),
                ("images", "name", graph.IMAGE, images),
            ):
                for name in names:
                    conn.execute(
                        f"DELETE FROM {table} WHERE namespace = ? AND {key} = ?", (scope.namespace, name)
                    )
                    graph.drop(conn, scope.namespace, graph.node(kind, name))
            sweep.sweep(conn, aliases)
            sizes = sweep.sizes(conn, scope.namespace)
            shared = conn.execute(
                "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM contents WHERE digest = value)",
                (json.dumps(list(sizes)),),
            )
            for (digest,) in shared:
                sizes[digest] = 0
            gone = removals.since(conn, scope.namespace, before)
            named = [
                Going(each.node, sizes.get(key_of(each.node), 0), _reason(each)) for each in gone[:MOST_NAMED]
            ]
            return Preview(named, len(gone) - len(named))

        found = await self._gc.preview(look)
        objects = [await self._measured(scope, each) for each in found.objects]
        return Preview(sorted(objects, key=_order), found.more)

    async def left(self, scope: Scope, nodes: Sequence[str]) -> set[str]:
        """Those of the objects that are there still."""

        def query(conn: Connection) -> set[str]:
            text = json.dumps(nodes)
            found: set[str] = set()
            for table, node in _NODES.items():
                rows = conn.execute(
                    f"SELECT value FROM json_each(?) WHERE EXISTS "
                    f"(SELECT 1 FROM {table} WHERE namespace = ? AND {node} = value)",
                    (text, scope.namespace),
                )
                found.update(row[0] for row in rows)
            return found

        return await self._db.read(query)

    async def objects(self, scope: Scope) -> AsyncIterator[Sequence[Kept]]:
        """Every blob by digest, then every snapshot by snapshotter and key; page by page."""
        after = ""
        while True:

            def blobs(conn: Connection, after: str = after) -> list[Kept]:
                rows = conn.execute(
                    "SELECT 'c:' || digest, size, created_at FROM contents "
                    "WHERE namespace = ? AND digest > ? ORDER BY digest LIMIT ?",
                    (scope.namespace, after, _PAGE),
                ).fetchall()
                return [self._kept(conn, scope, *row) for row in rows]

            page = await self._db.read(blobs)
            if page:
                yield page
            if len(page) < _PAGE:
                break
            after = key_of(page[-1].node)
        last = ("", "")
        while True:

            def snapshots(conn: Connection, last: tuple[str, str] = last) -> list[Kept]:
                rows = conn.execute(
                    "SELECT 's:' || snapshotter || '/' || key, 0, created_at FROM snapshots "
                    "WHERE namespace = ? AND (snapshotter, key) > (?, ?) ORDER BY snapshotter, key LIMIT ?",
                    (scope.namespace, *last, _PAGE),
                ).fetchall()
                return [self._kept(conn, scope, *row) for row in rows]

            page = await self._db.read(snapshots)
            if page:
                yield [replace(each, size=await self._size(scope, each.node)) for each in page]
            if len(page) < _PAGE:
                return
            snapshotter, _, key = key_of(page[-1].node).partition("/")
            last = (snapshotter, key)

    def _kept(self, conn: Connection, scope: Scope, node: str, size: int, created: int) -> Kept:
        keepers = self._explainer.keepers(conn, scope.namespace, node, MOST_CHAINS)
        return Kept(node, size, from_micros(created), keepers)

    async def _measured(self, scope: Scope, going: Going) -> Going:
        if kind_of(going.node) != graph.SNAPSHOT:
            return going
        return replace(going, size=await self._size(scope, going.node))

    async def _size(self, scope: Scope, node: str) -> int:
        snapshotter, _, key = key_of(node).partition("/")
        # One that is gone meanwhile takes nothing, and one whose snapshotter is not there cannot be asked.
        with suppress(NotFound, InvalidArgument):
            return (await self._snapshots.for_name(snapshotter).usage(scope, key)).size
        return 0


_NODES = {
    "contents": "'c:' || digest",
    "snapshots": "'s:' || snapshotter || '/' || key",
    "images": "'i:' || name",
    "containers": "'k:' || id",
    "leases": "'l:' || id",
    "ingests": "'g:' || ref",
}
_ORDER = (graph.CONTAINER, graph.IMAGE, graph.LEASE, graph.INGEST, graph.CONTENT, graph.SNAPSHOT)


def _order(going: Going) -> tuple[int, str]:
    kind = kind_of(going.node)
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER), going.node)


def _reason(removed: Removed) -> str:
    if removed.how == removals.DELETED:
        return "no container uses it" if kind_of(removed.node) == graph.IMAGE else "it has ended"
    if removed.how == removals.EXPIRED:
        return "its time is over"
    if not removed.cause:
        return "nothing refers to it"
    return f"only {describe(removed.cause)} {'kept' if removed.cause_how else 'referred to'} it"
