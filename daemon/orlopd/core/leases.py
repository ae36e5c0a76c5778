"""Leases: what keeps new objects from garbage collection until something refers to them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from orlopd.plugin.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented
from orlopd.plugin.values import NO_LABELS, Labels, check_digest, now

from . import graph
from .db import Connection, Database, dump_labels, from_micros, insert, load_labels, readable, to_micros
from .filters import Adaptor, FieldPath, in_map, parse
from .gc import Collector
from .identifiers import check_labels, check_name, check_namespace, quoted
from .namespaces import ensure
from .scope import Scope
from .shield import shielded

HELD = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease. The labels ``containerd.io/gc.expire`` and ``containerd.io/gc.flat`` end and flatten it."""

    id: str
    created_at: datetime = field(default_factory=now)
    labels: Labels = field(default_factory=lambda: NO_LABELS)


@dataclass(frozen=True, slots=True)
class Resource:
    """What a lease holds. ``type`` is "content", "ingests", "images" or "snapshots/SNAPSHOTTER"."""

    type: str
    id: str


class Leases:
    """Makes and ends leases, and says what they hold."""

    def __init__(self, db: Database, gc: Collector) -> None:
        self._db = db
        self._gc = gc
        self._passing: set[tuple[str, str]] = set()
        """Leases that end with a block of this process: no need to have them synced, each time something is
        held or ended. What they hold is on the disk after them, so that none is ever there without them."""

    async def create(self, scope: Scope, id: str = "", labels: Labels = NO_LABELS) -> Lease:
        """Make a lease, with a new id if none is given.

        :raises AlreadyExists: there is one of this id
        :raises InvalidArgument: a label or the namespace is malformed
        """
        check_namespace(scope.namespace)
        check_labels(labels, "lease.Labels")
        name = check_name(id or _random_id(), "lease id")
        lease = Lease(name, labels=load_labels(dump_labels(labels)))
        expires = graph.expiry(labels)

        def change(conn: Connection) -> None:
            ensure(conn, scope.namespace)
            if _exists(conn, scope.namespace, lease.id):
                raise AlreadyExists(f"lease {quoted(lease.id)}: already exists", resource=f"lease {lease.id}")
            insert(
                conn,
                "leases",
                {
                    "namespace": scope.namespace,
                    "id": lease.id,
                    "labels": dump_labels(labels),
                    "created_at": to_micros(lease.created_at),
                },
            )
            owner = graph.node(graph.LEASE, lease.id)
            graph.put(conn, scope.namespace, owner, root=True, expires=expires)

        await self._db.write(change, durable=not self._passes(scope, name))
        if expires is not None:
            self._gc.wake_at(expires)
        return lease

    async def delete(self, scope: Scope, id: str, *, sync: bool = False) -> None:
        """End a lease. With ``sync`` what it alone held is gone when this returns.

        :raises NotFound: there is none of this id
        """

        def change(conn: Connection) -> None:
            if not conn.execute(
                "DELETE FROM leases WHERE namespace = ? AND id = ?", (scope.namespace, id)
            ).rowcount:
                raise _not_found(id)
            graph.drop(conn, scope.namespace, graph.node(graph.LEASE, id))

        await self._db.write(change, durable=not self._passes(scope, id))
        if sync:
            await self._gc.collect()
        else:
            self._gc.schedule()

    async def list(self, scope: Scope, filters: Sequence[str] = ()) -> Sequence[Lease]:
        """Leases by id; filters know ``id``, ``labels.KEY``. :raises InvalidArgument: a malformed filter"""
        wanted = parse(filters)
        rows = await self._db.read(
            lambda conn: conn.execute(
                "SELECT id, created_at, labels FROM leases WHERE namespace = ? ORDER BY id",
                (scope.namespace,),
            ).fetchall()
        )
        leases = readable(lambda row: Lease(row[0], from_micros(row[1]), load_labels(row[2])), rows)
        return [lease for lease in leases if wanted.match(_adapt(lease))]

    async def add_resource(self, scope: Scope, id: str, resource: Resource) -> None:
        """Have a lease hold something, be it there already or not.

        :raises NotFound: there is no such lease
        :raises InvalidArgument: the type or the id is malformed
        :raises Unimplemented: nothing of this type can be held
        """

        def change(conn: Connection) -> None:
            _check_lease(conn, scope.namespace, id)
            _check_resource(resource)
            _hold(conn, scope.namespace, id, resource)

        await self._db.write(change, durable=not self._passes(scope, id))

    async def delete_resource(self, scope: Scope, id: str, resource: Resource) -> None:
        """Have a lease not hold something any more; no error if it does not. Raises as add_resource."""

        def change(conn: Connection) -> None:
            _check_lease(conn, scope.namespace, id)
            _check_resource(resource)
            _let_go(conn, scope.namespace, id, resource)

        await self._db.write(change, durable=not self._passes(scope, id))
        self._gc.schedule()

    async def list_resources(self, scope: Scope, id: str) -> Sequence[Resource]:
        """What a lease holds. :raises NotFound: there is no such lease"""

        def query(conn: Connection) -> list[Resource]:
            _check_lease(conn, scope.namespace, id)
            rows = conn.execute(
                "SELECT type, id FROM lease_resources WHERE namespace = ? AND lease = ? ORDER BY type, id",
                (scope.namespace, id),
            )
            return [Resource(*row) for row in rows]

        return await self._db.read(query)

    @asynccontextmanager
    async def hold(self, scope: Scope, expires: timedelta = HELD) -> AsyncGenerator[Scope]:
        """A scope with a lease for the length of the block; ``scope`` itself if the caller brought one.

        :param expires: when the lease ends if the daemon dies before the block does
        """
        if scope.lease:
            yield scope
            return
        until = (now() + expires).isoformat(timespec="seconds")
        passing = (scope.namespace, _random_id())
        self._passing.add(passing)
        try:
            lease = await self.create(scope, passing[1], labels={graph.EXPIRE_LABEL: until})
            try:
                yield Scope(scope.namespace, lease.id)
            finally:
                with shielded(), suppress(NotFound):
                    await self.delete(scope, lease.id)
        finally:
            self._passing.discard(passing)

    def _passes(self, scope: Scope, id: str) -> bool:
        return (scope.namespace, id) in self._passing


def hold(conn: Connection, scope: Scope, type: str, id: str) -> None:
    """Within a change: have the scope's lease, if it has one, hold an object.

    :raises NotFound: the lease does not exist
    """
    if scope.lease:
        _hold(conn, scope.namespace, scope.lease, Resource(type, id))


def let_go(conn: Connection, scope: Scope, type: str, id: str) -> None:
    """Within a change: have the scope's lease, if it has one, not hold an object any more."""
    if scope.lease:
        _let_go(conn, scope.namespace, scope.lease, Resource(type, id))


def _hold(conn: Connection, namespace: str, lease: str, resource: Resource) -> None:
    row = conn.execute(
        "SELECT labels FROM leases WHERE namespace = ? AND id = ?", (namespace, lease)
    ).fetchone()
    if row is None:
        raise _not_found(lease)
    conn.execute(
        "INSERT OR IGNORE INTO lease_resources (namespace, lease, type, id) VALUES (?, ?, ?, ?)",
        (namespace, lease, resource.type, resource.id),
    )
    owner = graph.node(graph.LEASE, lease)
    conn.execute(
        "INSERT OR IGNORE INTO edges (namespace, source, target, owner) VALUES (?, ?, ?, ?)",
        (namespace, owner, _node(resource, flat=graph.FLAT_LABEL in load_labels(row[0])), owner),
    )


def _let_go(conn: Connection, namespace: str, lease: str, resource: Resource) -> None:
    conn.execute(
        "DELETE FROM lease_resources WHERE namespace = ? AND lease = ? AND type = ? AND id = ?",
        (namespace, lease, resource.type, resource.id),
    )
    owner = graph.node(graph.LEASE, lease)
    conn.executemany(
        "DELETE FROM edges WHERE namespace = ? AND source = ? AND target = ? AND owner = ?",
        [(namespace, owner, _node(resource, flat=flat), owner) for flat in (False, True)],
    )


_KINDS = {"content": graph.CONTENT, "ingests": graph.INGEST, "images": graph.IMAGE}


def _node(resource: Resource, *, flat: bool) -> str:
    word, _, snapshotter = resource.type.partition("/")
    if word == "snapshots":
        return graph.snapshot_node(snapshotter, resource.id, flat=flat)
    kind = _KINDS[word]
    return graph.node(graph.FLAT[kind] if flat else kind, resource.id)


def _check_resource(resource: Resource) -> None:
    word, *rest = resource.type.split("/")
    if word == "snapshots":
        well_formed = len(rest) == 1 and bool(rest[0])
    elif word in _KINDS:
        well_formed = not rest
    else:
        raise Unimplemented(f"resource type {quoted(resource.type)} cannot be leased: not implemented")
    if not well_formed:
        raise InvalidArgument(f"invalid resource type {quoted(resource.type)}: invalid argument")
    check_name(resource.id, "resource id")
    if word == "content":
        check_digest(resource.id)


def _exists(conn: Connection, namespace: str, id: str) -> bool:
    row = conn.execute("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", (namespace, id)).fetchone()
    return row is not None


def _check_lease(conn: Connection, namespace: str, id: str) -> None:
    if not _exists(conn, namespace, id):
        raise _not_found(id)


def _not_found(id: str) -> NotFound:
    return NotFound(f"lease {quoted(id)}: not found", resource=f"lease {id}")


def _random_id() -> str:
    return f"{to_micros(now())}-{secrets.token_urlsafe(6)}"


def _adapt(lease: Lease) -> Adaptor:
    def field(path: FieldPath) -> str | None:
        match path:
            case ("id", *_):
                return lease.id
            case ("labels", *key):
                return in_map(tuple(key), lease.labels)
            case _:
                return None

    return field
